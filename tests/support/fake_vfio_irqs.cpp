#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>
#include <tests/support/fake_vfio_device.hpp>
#include <tests/support/own_mappings.hpp>

/// VFIO_DEVICE_GET_IRQ_INFO and VFIO_DEVICE_SET_IRQS of FakeVfioDevice.
namespace outboard::testing {
namespace {

namespace abi = vfio_abi;
using pci::InterruptKind;

constexpr std::uint32_t event_flags = abi::irq_flag::eventfd | abi::irq_flag::noresize;

/// A copy of the caller's eventfd, as the kernel keeps one. EBADF, or EINVAL for another kind of file.
Result<EventFd> take_eventfd(int fd) {
  char name[64] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  if (::fcntl(fd, F_GETFD) < 0) return Error(EBADF);
  if (::readlink(link.c_str(), name, sizeof name - 1) < 0 || std::strstr(name, "[eventfd") == nullptr) {
    return Error(EINVAL);
  }
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  return EventFd::adopt(std::move(copy));
}

bool is_event(InterruptKind kind) { return kind == InterruptKind::error || kind == InterruptKind::request; }

}  // namespace

abi::IrqInfo FakeVfioDevice::irq_info(unsigned index) const {
  const auto kind = static_cast<InterruptKind>(index);
  abi::IrqInfo info{.argsz = sizeof(abi::IrqInfo), .flags = event_flags, .index = index, .count = 1};
  if (is_event(kind)) return info;
  const pci::InterruptInfo function = function_->interrupts(kind);
  info.count = function.count;
  info.flags = abi::irq_flag::eventfd;  // with a count of 0 too
  if (kind == InterruptKind::intx) info.flags |= abi::irq_flag::maskable | abi::irq_flag::automasked;
  if (kind == InterruptKind::msi || (kind == InterruptKind::msix && !options_.dynamic_msix)) {
    info.flags |= abi::irq_flag::noresize;
  }
  return info;
}

int FakeVfioDevice::get_irq_info(std::uintptr_t argument) const {
  abi::IrqInfo info{};
  std::memcpy(&info, user_memory(argument), sizeof info);
  if (info.argsz < sizeof info || info.index >= pci::interrupt_kind_count + 1) return -EINVAL;
  const abi::IrqInfo known = info.index < pci::interrupt_kind_count
                                 ? irq_info(info.index)
                                 : abi::IrqInfo{.argsz = sizeof info, .flags = 0, .index = info.index, .count = 0};
  std::memcpy(user_memory(argument), &known, sizeof known);
  return 0;
}

int FakeVfioDevice::set_irqs(std::uintptr_t argument) {
  namespace flag = abi::irq_set_flag;
  abi::IrqSet set{};
  std::memcpy(&set, user_memory(argument), sizeof set);
  if (set.argsz < sizeof set || (set.flags & ~(flag::data_bits | flag::action_bits)) != 0) return -EINVAL;
  const std::uint32_t data = set.flags & flag::data_bits, action = set.flags & flag::action_bits;
  if (data != flag::data_none && data != flag::data_bool && data != flag::data_eventfd) return -EINVAL;
  if (set.index >= pci::interrupt_kind_count) return -EINVAL;
  const std::uint32_t available = irq_info(set.index).count;
  if (set.start >= available || set.count > available - set.start) return -EINVAL;
  const std::size_t width = data == flag::data_eventfd ? 4 : data == flag::data_bool ? 1 : 0;
  if (set.argsz - sizeof set < set.count * width) return -EINVAL;
  std::vector<int> fds(data == flag::data_eventfd ? set.count : 0);
  if (!fds.empty()) {
    std::memcpy(fds.data(), user_memory(argument) + sizeof set, fds.size() * sizeof(int));
  }
  const auto kind = static_cast<InterruptKind>(set.index);
  if (action != flag::action_mask && action != flag::action_unmask && action != flag::action_trigger) return -ENOTTY;
  if (is_event(kind)) return action == flag::action_trigger ? set_event(kind, set, fds) : -ENOTTY;
  return action == flag::action_trigger ? set_trigger(kind, set, fds) : set_mask(kind, set, fds);
}

int FakeVfioDevice::set_event(InterruptKind kind, const abi::IrqSet& set, const std::vector<int>& fds) {
  EventFd& event = irqs_[static_cast<std::size_t>(kind)].event;
  if (fds.empty()) {
    if (!event.valid()) return -EINVAL;
    if (set.count == 0) event = {};
    if (set.count != 0) event.signal();
    return 0;
  }
  if (fds[0] < 0) {
    if (!event.valid()) return -EINVAL;
    event = {};
    return 0;
  }
  auto taken = take_eventfd(fds[0]);
  if (!taken) return -taken.error().code();
  event = std::move(*taken);
  return 0;
}

int FakeVfioDevice::disable(InterruptKind kind) {
  irqs_[static_cast<std::size_t>(kind)].bound.clear();
  if (kind == InterruptKind::intx) unmask_bound_ = false;
  if (kind == InterruptKind::msi) set_message_enable(pci::capability_id::msi, false);
  if (kind == InterruptKind::msix) set_message_enable(pci::capability_id::msix, false);
  const auto off = function_->disable_interrupts(kind);
  return off ? 0 : -off.error().code();
}

int FakeVfioDevice::set_trigger(InterruptKind kind, const abi::IrqSet& set, const std::vector<int>& fds) {
  auto& bound = irqs_[static_cast<std::size_t>(kind)].bound;
  if (fds.empty()) {
    if (bound.empty()) return -EINVAL;
    if (set.count == 0) return disable(kind);
    const auto done = function_->trigger_interrupts(kind, set.start, set.count);
    return done ? 0 : -done.error().code();
  }
  for (const auto other : {InterruptKind::intx, InterruptKind::msi, InterruptKind::msix}) {
    if (other != kind && !irqs_[static_cast<std::size_t>(other)].bound.empty()) return -EINVAL;
  }
  const std::uint32_t end = set.start + set.count;
  if (const auto machine = machine_vectors.find(kind);
      machine != machine_vectors.end() && bound.empty() && static_cast<int>(end) > machine->second) {
    return machine->second;
  }
  const bool fixed = (irq_info(set.index).flags & abi::irq_flag::noresize) != 0;
  if (fixed && !bound.empty() && end > bound.size()) return -EINVAL;
  return bind(kind, set, fds);
}

/// One by one; a descriptor that is none takes those before it along.
int FakeVfioDevice::bind(InterruptKind kind, const abi::IrqSet& set, const std::vector<int>& fds) {
  auto& bound = irqs_[static_cast<std::size_t>(kind)].bound;
  const bool first = bound.empty();
  bound.resize(std::max<std::size_t>(bound.size(), set.start + set.count));
  int wrong = 0;
  for (std::size_t i = 0; i < fds.size() && wrong == 0; ++i) {
    std::vector<EventFd> one(1);
    if (fds[i] >= 0) {
      auto taken = take_eventfd(fds[i]);
      if (!taken) {
        wrong = taken.error().code();
        break;
      }
      one[0] = std::move(*taken);
    } else if (kind == InterruptKind::msi) {
      violations.emplace_back("an MSI vector without an eventfd: the device writes to address 0");
    }
    bound[set.start + i] = one[0].valid();
    const auto done = function_->bind_interrupts(kind, set.start + static_cast<std::uint32_t>(i), std::move(one));
    if (!done) wrong = done.error().code();
  }
  if (wrong != 0) {
    for (std::size_t i = 0; i < fds.size(); ++i) bound[set.start + i] = false;
    if (first) disable(kind);
    return -wrong;
  }
  if (kind == InterruptKind::msi) set_message_enable(pci::capability_id::msi, true);
  if (kind == InterruptKind::msix) set_message_enable(pci::capability_id::msix, true);
  return 0;
}

int FakeVfioDevice::set_mask(InterruptKind kind, const abi::IrqSet& set, const std::vector<int>& fds) {
  namespace flag = abi::irq_set_flag;
  if (kind != InterruptKind::intx) return -ENOTTY;
  if (irqs_[0].bound.empty()) return -EINVAL;
  const bool unmask = (set.flags & flag::action_unmask) != 0;
  if (!fds.empty()) {
    if (!unmask) return -ENOTTY;
    if (fds[0] < 0) {
      unmask_bound_ = false;
      return function_->bind_unmask(EventFd()) ? 0 : -EINVAL;
    }
    if (unmask_bound_) return -EBUSY;
    auto taken = take_eventfd(fds[0]);
    if (!taken) return -taken.error().code();
    const auto done = function_->bind_unmask(std::move(*taken));
    unmask_bound_ = done.has_value();
    return done ? 0 : -done.error().code();
  }
  const auto done = unmask ? function_->unmask_interrupts(kind, set.start, set.count)
                           : function_->mask_interrupts(kind, set.start, set.count);
  return done ? 0 : -done.error().code();
}

}  // namespace outboard::testing
