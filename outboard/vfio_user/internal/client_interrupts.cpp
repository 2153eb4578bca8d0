#include <outboard/vfio_user/internal/client_interrupts.hpp>

#include <algorithm>

#include <outboard/base/internal/eventfds.hpp>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
using spec::Command;

}  // namespace

Result<pci::InterruptInfo> ClientInterrupts::info(pci::InterruptKind kind) const {
  const auto index = static_cast<std::size_t>(kind);
  if (index >= pci::interrupt_kind_count) {
    return connection_.named(Error(EINVAL, "there is no such kind of interrupt"));
  }
  return connection_.description().interrupts[index];
}

Status ClientInterrupts::bind(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) {
  OUTBOARD_CHECK(bind_list(kind, start, eventfds));
  auto copies = duplicate(eventfds);
  if (!copies) {
    // Out of descriptors: interrupts come all the same, but the function cannot be moved.
    not_kept_ = copies.error();
    return {};
  }
  auto& bound = bound_[static_cast<std::size_t>(kind)];
  if (bound.size() < start + copies->size()) bound.resize(start + copies->size());
  std::ranges::move(*copies, bound.begin() + start);
  return {};
}

Status ClientInterrupts::bind_at(ServerConnection& server) const {
  if (not_kept_) return Error(*not_kept_).while_doing("keeping the eventfds of interrupts");
  ClientInterrupts theirs(server);
  for (std::size_t kind = 0; kind < bound_.size(); ++kind) {
    if (!bound_[kind].empty()) OUTBOARD_CHECK(theirs.bind_list(pci::InterruptKind(kind), 0, bound_[kind]));
  }
  return unmask_.valid() ? theirs.bind_unmask(unmask_) : Status();
}

/// Sends as many eventfds in a message as the server takes, and all messages at once. Vectors without an eventfd go in messages
/// without descriptors.
Status ClientInterrupts::bind_list(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) {
  OUTBOARD_CHECK(connection_.may_wait());
  const std::size_t max_fds = std::min<std::uint64_t>(connection_.server().max_msg_fds, spec::kernel_max_fds);
  const bool any = std::ranges::any_of(eventfds, &EventFd::valid);
  if (any && max_fds == 0)
    return connection_.named(Error(ENOTSUP, "the server takes no file descriptors, so interrupts cannot be bound"));
  std::optional<Error> first_error;
  Batch batch(connection_.requests());
  for (std::size_t i = 0; i < eventfds.size();) {
    const bool valid = eventfds[i].valid();
    std::vector<int> fds;
    std::size_t run = 0;
    while (i + run < eventfds.size() && eventfds[i + run].valid() == valid && (!valid || run < max_fds)) {
      if (valid) fds.push_back(eventfds[i + run].get());
      ++run;
    }
    const abi::IrqSet set{.argsz = sizeof(abi::IrqSet),
                          .flags = abi::irq_set_flag::data_eventfd | abi::irq_set_flag::action_trigger,
                          .index = static_cast<std::uint32_t>(kind),
                          .start = static_cast<std::uint32_t>(start + i),
                          .count = static_cast<std::uint32_t>(run)};
    batch.add({.command = Command::device_set_irqs, .head = as_bytes_of(set), .fds = fds},
              [&first_error](const Result<Requests::Reply>& reply) {
                if (!reply && !first_error) first_error = reply.error();
              });
    i += run;
  }
  batch.wait();
  if (!first_error) return {};
  return Error(*first_error).while_doing("binding interrupts").on(connection_.name());
}

Status ClientInterrupts::bind_unmask(const EventFd& eventfd) {
  auto copy = eventfd.duplicate();
  if (!copy) not_kept_ = copy.error();
  const int fd = eventfd.get();
  const abi::IrqSet set{.argsz = sizeof(abi::IrqSet),
                        .flags = abi::irq_set_flag::data_eventfd | abi::irq_set_flag::action_unmask,
                        .index = static_cast<std::uint32_t>(pci::InterruptKind::intx),
                        .start = 0,
                        .count = 1};
  OUTBOARD_CHECK(connection_.ask_named({.command = Command::device_set_irqs,
                                        .head = as_bytes_of(set),
                                        .fds = std::span<const int>(&fd, eventfd.valid() ? 1 : 0)}));
  unmask_ = copy ? std::move(*copy) : EventFd();
  return {};
}

Status ClientInterrupts::disable(pci::InterruptKind kind) {
  OUTBOARD_CHECK(act(abi::irq_set_flag::action_trigger, kind, 0, 0));
  if (static_cast<std::size_t>(kind) < bound_.size()) bound_[static_cast<std::size_t>(kind)].clear();
  if (kind == pci::InterruptKind::intx) unmask_ = EventFd();
  return {};
}

Status ClientInterrupts::mask(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return act(abi::irq_set_flag::action_mask, kind, start, count);
}

Status ClientInterrupts::unmask(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return act(abi::irq_set_flag::action_unmask, kind, start, count);
}

Status ClientInterrupts::trigger(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  if (count == 0) return {};  // with none, the command means that the kind is to be disabled
  return act(abi::irq_set_flag::action_trigger, kind, start, count);
}

/// SET_IRQS with an action (vfio_abi::irq_set_flag) and no data.
Status ClientInterrupts::act(std::uint32_t action, pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  const abi::IrqSet set{.argsz = sizeof(abi::IrqSet),
                        .flags = abi::irq_set_flag::data_none | action,
                        .index = static_cast<std::uint32_t>(kind),
                        .start = start,
                        .count = count};
  return connection_.ask_named({.command = Command::device_set_irqs, .head = as_bytes_of(set)});
}

}  // namespace outboard::vfio_user
