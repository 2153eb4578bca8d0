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

}  // namespace outboard::command
