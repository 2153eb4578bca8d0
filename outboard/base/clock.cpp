#include <outboard/base/loop.hpp>

namespace outboard {

Clock& Clock::system() {
  class System final : public Clock {
   public:
    TimePoint now() const override { return std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now()); }
  };
  static System system;  // has no state
  return system;
}

}  // namespace outboard
