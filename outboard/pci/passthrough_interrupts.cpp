#include <algorithm>

#include <outboard/base/internal/eventfds.hpp>
#include <outboard/pci/passthrough.hpp>

/// The interrupts of a re-exported function: the client's eventfds, put where the device signals.
namespace outboard::pci {

namespace {

Error too_many() { return Error(EINVAL, "more interrupt vectors than the function has"); }

}  // namespace

EventFd* Passthrough::notice_of(InterruptKind kind) {
  if (kind == InterruptKind::error) return &error_notice_;
  return kind == InterruptKind::request ? &request_notice_ : nullptr;
}

Status Passthrough::bind_notice(InterruptKind kind, std::uint32_t start, std::vector<EventFd> eventfds) {
  if (start != 0 || eventfds.size() > 1) return too_many();
  EventFd& notice = *notice_of(kind);
  notice = eventfds.empty() || !may_be_eventfd(eventfds.front().get()) ? EventFd() : std::move(eventfds.front());
  // It may have been asked for before this client came to hear of it.
  if (kind == InterruptKind::request && unplug_wanted_ && notice.valid()) notice.signal();
  return {};
}

Status Passthrough::bind_interrupts(InterruptKind kind, std::uint32_t start, std::vector<EventFd> eventfds) {
  OUTBOARD_CHECK(ready());
  if (notice_of(kind) != nullptr) return bind_notice(kind, start, std::move(eventfds));
  const InterruptInfo info = interrupts(kind);
  if (info.count == 0 || !range_within(start, eventfds.size(), info.count)) return too_many();
  if (bound_ && *bound_ != kind) {
    return Error(EINVAL, "another kind of interrupt is enabled")
        .cure("disable that kind first: only one of INTx, MSI and MSI-X can be in use");
  }
  if (kind == InterruptKind::intx && !eventfds.empty() && unmask_.valid() && unmask_.same_as(eventfds.front()))
    return Error(EINVAL, "the same eventfd cannot be both the signal and the unmask of INTx");
  if (eventfds.empty()) {
    if (bound_) return {};
    eventfds.resize(1);  // enabled, with nothing bound
  }
  for (EventFd& eventfd : eventfds) {
    if (!may_be_eventfd(eventfd.get())) eventfd = EventFd();
  }
  if (kind == InterruptKind::msi) OUTBOARD_CHECK(fill_gaps(eventfds));
  if (kind == InterruptKind::msi && !info.resizable) return bind_fixed(start, std::move(eventfds));
  OUTBOARD_CHECK(handle_->bind_interrupts(kind, start, eventfds));
  bound_ = kind;
  if (kind == InterruptKind::intx) vectors_ = std::move(eventfds);
  return {};
}

/// Taking a vector from a device that cannot mask it leaves it with an empty message: its next interrupt would be a write to
/// address 0. Such a vector signals somebody who does not listen instead.
Status Passthrough::fill_gaps(std::vector<EventFd>& eventfds) const {
  if (config_->msi_maskable()) return {};
  for (EventFd& eventfd : eventfds) {
    if (eventfd.valid()) continue;
    OUTBOARD_TRY(eventfd, sink_.duplicate());
  }
  return {};
}

/// MSI where vectors cannot be added one by one: a larger set takes the place of the one there was. What the device raises
/// in between is lost; a client that adds vectors to a working device looks at it afterwards.
Status Passthrough::bind_fixed(std::uint32_t start, std::vector<EventFd> eventfds) {
  const std::size_t before = vectors_.size(), after = std::max<std::size_t>(before, start + eventfds.size());
  const bool grows = bound_ && after > before;
  vectors_.resize(after);
  std::swap_ranges(eventfds.begin(), eventfds.end(), vectors_.begin() + start);
  Status bound = fill_gaps(vectors_);
  if (bound && grows) bound = handle_->disable_interrupts(InterruptKind::msi);
  if (bound) bound = handle_->bind_interrupts(InterruptKind::msi, 0, vectors_);
  if (bound) {
    bound_ = InterruptKind::msi;
    return {};
  }
  std::swap_ranges(eventfds.begin(), eventfds.end(), vectors_.begin() + start);
  vectors_.resize(before);
  // What was bound before comes back, if it can.
  if (grows && !handle_->bind_interrupts(InterruptKind::msi, 0, vectors_)) end_interrupts();
  return bound;
}

/// The handle has those of most vectors, which are closed here.
std::uint64_t Passthrough::held_eventfds() const {
  auto count = static_cast<std::uint64_t>(std::ranges::count_if(vectors_, &EventFd::valid));
  for (const EventFd* one : {&unmask_, &error_notice_, &request_notice_}) count += one->valid() ? 1U : 0U;
  return count;
}

Status Passthrough::bind_unmask(EventFd eventfd) {
  OUTBOARD_CHECK(ready());
  if (interrupts(InterruptKind::intx).count == 0) return Error(EINVAL, "the function has no INTx");
  if (bound_ == InterruptKind::intx && !vectors_.empty() && vectors_.front().valid() &&
      vectors_.front().same_as(eventfd))
    return Error(EINVAL, "the same eventfd cannot be both the signal and the unmask of INTx");
  if (!may_be_eventfd(eventfd.get())) eventfd = EventFd();
  unmask_watch_.reset();
  const Status bound = handle_->bind_unmask(eventfd);
  unmask_ = std::move(eventfd);
  if (bound || bound.error().code() != ENOTSUP || !unmask_.valid()) return bound;
  OUTBOARD_TRY(unmask_watch_, loop_.watch_eventfd(unmask_, [this] {
    if (!ready()) return;
    [[maybe_unused]] const Status unmasked = handle_->unmask_interrupts(InterruptKind::intx, 0, 1);
  }));
  return {};
}

Status Passthrough::disable_interrupts(InterruptKind kind) {
  if (EventFd* const notice = notice_of(kind)) {
    *notice = EventFd();
    return {};
  }
  if (bound_ != kind) return {};
  OUTBOARD_CHECK(ready());
  end_interrupts();
  return {};
}

void Passthrough::end_interrupts() {
  unmask_watch_.reset();
  if (bound_) {
    if (const Status off = handle_->disable_interrupts(*bound_); !off)
      log_.error("{}: interrupts cannot be disabled: {}", handle_->name(), off.error().message());
  }
  bound_.reset();
  vectors_.clear();
  unmask_ = EventFd();
}

Status Passthrough::trigger_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  if (!range_within(start, count, interrupts(kind).count)) return too_many();
  if (const EventFd* const notice = notice_of(kind)) {
    if (notice->valid() && count != 0) notice->signal();
    return {};
  }
  OUTBOARD_CHECK(ready());
  return handle_->trigger_interrupts(kind, start, count);
}

Status Passthrough::mask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  if (kind != InterruptKind::intx) return Error(ENOTTY, "this kind of interrupt cannot be masked by a call");
  OUTBOARD_CHECK(ready());
  return handle_->mask_interrupts(kind, start, count);
}

Status Passthrough::unmask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  if (kind != InterruptKind::intx) return Error(ENOTTY, "this kind of interrupt cannot be unmasked by a call");
  OUTBOARD_CHECK(ready());
  return handle_->unmask_interrupts(kind, start, count);
}

}  // namespace outboard::pci
