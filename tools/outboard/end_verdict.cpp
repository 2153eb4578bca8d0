#include <tools/outboard/end_verdict.hpp>

#include <utility>

#include <outboard/storage/ending.hpp>

namespace outboard::command {

StopSignal::Verdict EndVerdict::operator()() {
  if (storage::ending() == storage::Ending::closing) {
    has_seen_closing_ = true;
    return StopSignal::Verdict::wait;
  }
  return std::exchange(has_seen_closing_, false) ? StopSignal::Verdict::anew : StopSignal::Verdict::end;
}

void bound_end(StopSignal& stop, StopSignal::Start start, Duration timeout, std::function<void()> say) {
  stop.bound_end({.start = start, .timeout = timeout, .verdict = EndVerdict(), .say = std::move(say)});
}

}  // namespace outboard::command
