#include <outboard/devices/example/internal/device_events.hpp>

#include <algorithm>
#include <limits>
#include <utility>

namespace outboard::example {

void Events::open(Loop& loop) {
  const std::lock_guard lock(mutex_);
  loop_ = &loop;
}

void Events::close(bool drain) {
  if (drain) tell_pending();
  {
    const std::lock_guard lock(mutex_);
    loop_ = nullptr;
    free_ = 0;
    for (const Pending& event : std::exchange(pending_, {})) add(missed_, std::uint64_t{event.missed} + 1);
  }
  kept_.clear();
}

void Events::clear() { set_missed(0); }

void Events::take(virtio::Request buffer) {
  kept_.push_back(std::move(buffer));
  const std::lock_guard lock(mutex_);
  ++free_;
}

void Events::hit(std::uint32_t value) {
  const std::lock_guard lock(mutex_);
  if (loop_ == nullptr || free_ == 0) return add(missed_, 1);
  --free_;
  pending_.push_back({value, std::exchange(missed_, 0)});
  if (std::exchange(posted_, true)) return;
  loop_->post([self = shared_from_this()] { self->tell_pending(); });
}

void Events::tell_pending() {
  for (;;) {
    Pending event;
    {
      const std::lock_guard lock(mutex_);
      posted_ = false;
      if (pending_.empty()) return;
      event = pending_.front();
      pending_.pop_front();
    }
    virtio::Request buffer = std::move(kept_.front());
    kept_.pop_front();
    if (tell(std::move(buffer), event)) continue;
    const std::lock_guard lock(mutex_);
    // An event that waits already is the next one to be reported: the count is its to tell.
    add(pending_.empty() ? missed_ : pending_.front().missed, std::uint64_t{event.missed} + 1);
  }
}

/// False: the buffer was too small. It goes back empty.
bool Events::tell(virtio::Request buffer, const Pending& event) {
  // D-EX-11: "If a buffer of eventq has fewer than 16 device-writable bytes, the device MUST use it with a used length of 0,
  // and MUST count the event as missed."
  const bool fits = buffer.writable_size() >= sizeof(spec::Event);
  if (fits) {
    const spec::Event told{.type = spec::event::limit_hit, .missed = event.missed, .value = event.value, .reserved = 0};
    if (auto written = buffer.write(told); !written) {
      buffer.violation(written.error());
      return false;
    }
  }
  buffer.complete();
  return fits;
}

/// D-EX-10: "It MUST report the number of events missed since the last event it reported, saturated at 2^32 - 1 ..."
void Events::add(std::uint32_t& missed, std::uint64_t count) {
  missed = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(std::uint64_t{missed} + count, std::numeric_limits<std::uint32_t>::max()));
}

std::uint32_t Events::missed() const {
  const std::lock_guard lock(mutex_);
  return missed_;
}

void Events::set_missed(std::uint32_t count) {
  const std::lock_guard lock(mutex_);
  missed_ = count;
}

}  // namespace outboard::example
