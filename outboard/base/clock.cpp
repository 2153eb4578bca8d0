#include <outboard/base/loop.hpp>

#include <outboard/base/internal/system_calls.hpp>

namespace outboard {

Clock& Clock::system() {
  class System final : public Clock {
   public:
    TimePoint now() const override { return system_calls().now(); }
  };
  static System system;  // has no state
  return system;
}

}  // namespace outboard
