#pragma once

#include <cerrno>
#include <chrono>

#include <outboard/vfio/internal/kernel.hpp>

namespace outboard::vfio {

/// Makes a call of the kernel's (0 or more, or -errno) again as long as it says EAGAIN, for about a second: a device is busy
/// while somebody resets it. What the call said last.
template <typename Call>
int while_busy(Kernel& kernel, Call call) {
  constexpr Duration longest_wait = std::chrono::seconds(1);
  Duration waited{0}, pause = std::chrono::milliseconds(5);
  while (true) {
    const int done = call();
    if (done != -EAGAIN || waited >= longest_wait) return done;
    kernel.pause(pause);
    waited += pause;
    pause *= 2;
  }
}

}  // namespace outboard::vfio
