// Must not compile with what room `base` is given; see CMakeLists.txt.
#include <outboard/memory/iova.hpp>
