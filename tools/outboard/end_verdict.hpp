#pragma once

#include <functional>

#include <tools/outboard/stop_signal.hpp>

namespace outboard::command {

/// The verdict of a bound in a process that has back ends. Closing an image is not bounded: no request is left, and the kernel
/// would close the image in any case. The time starts again afterwards.
class EndVerdict {
 public:
  StopSignal::Verdict operator()();

 private:
  bool has_seen_closing_ = false;
};

/// StopSignal::bound_end() with that verdict.
void bound_end(StopSignal& stop, StopSignal::Start start, Duration timeout, std::function<void()> say);

}  // namespace outboard::command
