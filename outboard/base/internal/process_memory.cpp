#include <outboard/base/internal/process_memory.hpp>

#include <unistd.h>

#include <fstream>

namespace outboard {

std::uint64_t page_size() { return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)); }

std::uint64_t address_space_in_use() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t pages = 0;
  return file >> pages ? pages * page_size() : 0;
}

}  // namespace outboard
