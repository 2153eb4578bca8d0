#include <outboard/vfio/internal/interrupts.hpp>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include <outboard/base/internal/eventfds.hpp>
#include <outboard/vfio/internal/info.hpp>

namespace outboard::vfio {
namespace {

namespace abi = vfio_abi;
using pci::InterruptKind;

const char* name_of(InterruptKind kind) {
  switch (kind) {
    case InterruptKind::intx:
      return "INTx";
    case InterruptKind::msi:
      return "MSI";
    case InterruptKind::msix:
      return "MSI-X";
    case InterruptKind::error:
      return "the error interrupt";
    case InterruptKind::request:
      return "the unplug request";
  }
  return "an unknown interrupt";
}

}  // namespace

Status Interrupts::discover(std::uint32_t kinds) {
  for (std::uint32_t i = 0; i < std::min<std::uint32_t>(kinds, pci::interrupt_kind_count); ++i) {
    OUTBOARD_TRY(infos_[i], irq_facts(kernel_, device_, i));
  }
  return {};
}

Status Interrupts::check(InterruptKind kind, std::uint64_t start, std::uint64_t count) const {
  const std::uint32_t available = info(kind).count;
  if (range_within(start, count, available)) return {};
  return Error(EINVAL, fmt::format("{} has {} vectors; {} from {} were named", name_of(kind), available, count, start));
}

Status Interrupts::may_enable(InterruptKind kind) const {
  for (const auto other : {InterruptKind::intx, InterruptKind::msi, InterruptKind::msix}) {
    if (other != kind && !bound_[index(other)].empty()) {
      return Error(EINVAL, fmt::format("{} is enabled, and only one kind of interrupt can be", name_of(other)));
    }
  }
  return {};
}

int Interrupts::set(std::uint32_t flags, InterruptKind kind, std::uint32_t start, std::uint32_t count,
                    const std::vector<std::int32_t>& fds) {
  std::vector<std::byte> call(sizeof(abi::IrqSet) + fds.size() * sizeof(std::int32_t));
  const abi::IrqSet head{.argsz = static_cast<std::uint32_t>(call.size()),
                         .flags = flags,
                         .index = static_cast<std::uint32_t>(kind),
                         .start = start,
                         .count = count};
  std::memcpy(call.data(), &head, sizeof head);
  if (!fds.empty()) std::memcpy(call.data() + sizeof head, fds.data(), fds.size() * sizeof(std::int32_t));
  return kernel_.call(device_, abi::DeviceRequest::set_irqs, call.data());
}

Status Interrupts::act(std::uint32_t action, InterruptKind kind, std::uint32_t start, std::uint32_t count,
                       const char* doing) {
  const int done = set(abi::irq_set_flag::data_none | action, kind, start, count, {});
  if (done >= 0) return {};
  return Error(-done, fmt::format("{} {}: {}", doing, name_of(kind), Error(-done).what()));
}

std::int32_t Interrupts::fd_for(InterruptKind kind, const EventFd& eventfd) const {
  if (eventfd.valid()) return eventfd.get();
  return kind == InterruptKind::msi ? sink_.get() : -1;
}

/// Nothing stays half enabled: the kernel has torn down what came before the vector that it refused.
Status Interrupts::failed(InterruptKind kind, Eventfds before, int result, std::size_t wanted) {
  set(abi::irq_set_flag::data_none | abi::irq_set_flag::action_trigger, kind, 0, 0, {});
  bound_[index(kind)].clear();
  if (result > 0) {
    // Not an error of the kernel's: so many there are, and none of them was enabled.
    infos_[index(kind)].count = std::min(info(kind).count, static_cast<std::uint32_t>(result));
    return Error(ENOSPC, fmt::format("the machine has {} vectors of {} for this device; {} were asked for", result,
                                     name_of(kind), wanted));
  }
  if (!before.empty()) {
    bound_[index(kind)] = std::move(before);
    if (send(kind, 0, static_cast<std::uint32_t>(bound_[index(kind)].size())) != 0) {
      set(abi::irq_set_flag::data_none | abi::irq_set_flag::action_trigger, kind, 0, 0, {});
      bound_[index(kind)].clear();
      log_.error("{} is off: what was bound before could not be restored", name_of(kind));
    }
  }
  return Error(-result, fmt::format("enabling {} vectors of {}: {}", wanted, name_of(kind), Error(-result).what()));
}

int Interrupts::send(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  std::vector<std::int32_t> fds;
  for (std::uint32_t i = 0; i < count; ++i) {
    fds.push_back(fd_for(kind, bound_[index(kind)][start + i]));
  }
  return set(abi::irq_set_flag::data_eventfd | abi::irq_set_flag::action_trigger, kind, start, count, fds);
}

Status Interrupts::bind(InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) {
  if (kind == InterruptKind::error || kind == InterruptKind::request) {
    return Error(ENOTSUP, fmt::format("{} is the handle's own: it raises an event", name_of(kind)));
  }
  // With no eventfd at all the kind is enabled all the same.
  const auto count = static_cast<std::uint32_t>(std::max<std::size_t>(eventfds.size(), 1));
  OUTBOARD_CHECK(check(kind, start, count));
  OUTBOARD_CHECK(may_enable(kind));
  Eventfds& bound = bound_[index(kind)];
  OUTBOARD_TRY(Eventfds before, duplicate(bound));
  OUTBOARD_TRY(Eventfds added, duplicate(eventfds));
  // Before anything changes: without a descriptor left there is none.
  if (kind == InterruptKind::msi && !sink_.valid()) {
    OUTBOARD_TRY(sink_, EventFd::create());
  }
  const std::uint32_t end = start + count;
  const bool grows = end > bound.size();
  if (grows) bound.resize(end);
  std::ranges::move(added, bound.begin() + start);
  // All at once: the first time, and where vectors cannot be added.
  const bool anew = grows && !info(kind).resizable && !before.empty();
  if (anew) set(abi::irq_set_flag::data_none | abi::irq_set_flag::action_trigger, kind, 0, 0, {});
  const bool whole = anew || before.empty();
  const int sent = whole ? send(kind, 0, static_cast<std::uint32_t>(bound.size())) : send(kind, start, count);
  return sent == 0 ? Status() : failed(kind, std::move(before), sent, end);
}

Status Interrupts::bind_unmask(const EventFd& eventfd) {
  OUTBOARD_CHECK(check(InterruptKind::intx, 0, 1));
  if (bound_[index(InterruptKind::intx)].empty()) return Error(EINVAL, "INTx is not enabled");
  const auto unmask = abi::irq_set_flag::data_eventfd | abi::irq_set_flag::action_unmask;
  // One at a time: the one before goes first.
  int done = set(unmask, InterruptKind::intx, 0, 1, {-1});
  if (eventfd.valid()) done = set(unmask, InterruptKind::intx, 0, 1, {eventfd.get()});
  if (done >= 0) return {};
  return Error(-done, "binding the unmasking of INTx: " + Error(-done).what());
}

Status Interrupts::disable(InterruptKind kind) {
  Eventfds& bound = bound_[index(kind)];
  if (bound.empty()) return {};  // the kernel would say EINVAL
  bound.clear();
  return act(abi::irq_set_flag::action_trigger, kind, 0, 0, "disabling");
}

void Interrupts::disable_all() {
  for (std::size_t i = 0; i < bound_.size(); ++i) {
    if (const Status off = disable(static_cast<InterruptKind>(i)); !off) log_.debug("{}", off.error().message());
  }
}

Status Interrupts::mask(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  if (!info(kind).maskable) return Error(ENOTTY, fmt::format("{} cannot be masked", name_of(kind)));
  OUTBOARD_CHECK(check(kind, start, count));
  return act(abi::irq_set_flag::action_mask, kind, start, count, "masking");
}

Status Interrupts::unmask(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  if (!info(kind).maskable) return Error(ENOTTY, fmt::format("{} cannot be masked", name_of(kind)));
  OUTBOARD_CHECK(check(kind, start, count));
  return act(abi::irq_set_flag::action_unmask, kind, start, count, "unmasking");
}

Status Interrupts::trigger(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  OUTBOARD_CHECK(check(kind, start, count));
  if (count == 0) return {};  // which would mean that the kind is to be disabled
  return act(abi::irq_set_flag::action_trigger, kind, start, count, "triggering");
}

Status Interrupts::arm(InterruptKind kind, const EventFd& eventfd) {
  OUTBOARD_CHECK(check(kind, 0, 1));
  const int done =
      set(abi::irq_set_flag::data_eventfd | abi::irq_set_flag::action_trigger, kind, 0, 1, {eventfd.get()});
  if (done >= 0) return {};
  return Error(-done, fmt::format("arming {}: {}", name_of(kind), Error(-done).what()));
}

}  // namespace outboard::vfio
