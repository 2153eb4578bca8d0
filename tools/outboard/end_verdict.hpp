#pragma once

#include <tools/outboard/stop_signal.hpp>

namespace outboard::command {

/// The verdict on an end whose time is over, where back ends of this process are among what ends. Closing an image is not
/// bounded: no request is left, and the kernel would close it all the same. What comes after it has its own time.
class EndVerdict {
 public:
  StopSignal::Verdict operator()();

 private:
  bool has_seen_closing_ = false;
};

}  // namespace outboard::command
