#include <outboard/vfio_user/internal/stall_timer.hpp>

#include <algorithm>

namespace outboard::vfio_user {
namespace {

/// A client that connects and says nothing keeps others from the function no longer than this.
constexpr Duration version_timeout = std::chrono::seconds(5);

}  // namespace

void StallTimer::update(Expected expected) {
  expected_ = expected;
  const bool waiting = expected == Expected::version || channel_.partial() || channel_.queued() != 0;
  if (!waiting) timer_.reset();
  if (!waiting || timer_.active()) return;
  consumed_ = channel_.consumed();
  sent_ = channel_.sent();
  timer_ = loop_.after(expected == Expected::version ? std::min(limit_, version_timeout) : limit_, [this] { check(); });
}

void StallTimer::check() {
  timer_.reset();
  const bool same_message = channel_.consumed() == consumed_;
  if (same_message && expected_ == Expected::version) {
    return stalled_(Error(ETIMEDOUT, "the client connected and did not begin with VERSION"));
  }
  if (same_message && expected_ == Expected::commands && channel_.partial()) {
    return stalled_(Error(ETIMEDOUT, "the client began a message and did not end it"));
  }
  if (channel_.queued() != 0 && channel_.sent() == sent_) {
    return stalled_(Error(ETIMEDOUT, "the client does not read what it is sent"));
  }
  update(expected_);
}

}  // namespace outboard::vfio_user
