#include <outboard/pci/handle.hpp>

#include <algorithm>
#include <bit>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/internal/silence.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {

Result<Window> Bar::window(std::uint64_t offset, std::uint64_t length) const {
  if (!range_within(offset, length, size_)) return Error(EINVAL, "the window extends beyond the BAR");
  return handle_->map_window(index_, offset, length);
}

Result<Bar> Handle::bar(unsigned index) {
  if (index > region::bar5) return Error(EINVAL, "a function has BARs 0 to 5").on(name());
  OUTBOARD_TRY(const RegionInfo info, region(index));
  if (info.size == 0) return Error(ENODEV, "the function has no BAR " + std::to_string(index)).on(name());
  return Bar(*this, index, info.size);
}

// Command. Written as 16 bits: the other half of its dword has bits that a one clears.

Status Handle::set_command(std::uint16_t clear, std::uint16_t set) {
  OUTBOARD_TRY(const auto command, config().read<Command>());
  if (silent(command)) return Error(ENODEV, "the function does not answer").on(name());
  return config().write(Command(static_cast<std::uint16_t>((command.value() & ~clear) | set)));
}

Status Handle::enable_bus_master() { return set_command(0, Command::memory_space.mask | Command::bus_master.mask); }

Status Handle::disable_bus_master() { return set_command(Command::bus_master.mask, 0); }

Status Handle::enable_memory() { return set_command(0, Command::memory_space.mask); }

Result<Identity> Handle::identity() {
  OUTBOARD_TRY(const auto vendor, config().read<VendorId>());
  if (vendor.value() == VendorId::absent) return Error(ENODEV, "the function does not answer").on(name());
  OUTBOARD_TRY(const auto device, config().read<DeviceId>());
  OUTBOARD_TRY(const auto subsystem_vendor, config().read<SubsystemVendorId>());
  OUTBOARD_TRY(const auto subsystem, config().read<SubsystemId>());
  OUTBOARD_TRY(const auto kind, config().read<ClassAndRevision>());
  if (silent(kind)) return Error(ENODEV, "the function does not answer").on(name());
  return Identity{.vendor = vendor.value(),
                  .device = device.value(),
                  .subsystem_vendor = subsystem_vendor.value(),
                  .subsystem = subsystem.value(),
                  .class_code = kind.get(ClassAndRevision::class_code),
                  .revision = static_cast<std::uint8_t>(kind.get(ClassAndRevision::revision))};
}

// Events.

bool Handle::raise(Event event) {
  const std::weak_ptr<const bool> alive = alive_;
  if (const auto handler = event_handler_) {
    (*handler)(event);
  } else if (event == Event::unplug_requested) {
    revoke();
  }
  if (event != Event::gone || alive.expired()) return !alive.expired();
  if (const auto handler = gone_handler_) (*handler)();
  return !alive.expired();
}

// Interrupts.

Status Handle::bind_unmask(const EventFd& /*eventfd*/) {
  return Error(ENOTSUP, "interrupts are unmasked by call here").on(name());
}

Status Handle::mask_interrupts(InterruptKind /*kind*/, std::uint32_t /*start*/, std::uint32_t /*count*/) {
  return Error(ENOTTY, "these interrupts cannot be masked").on(name());
}

Status Handle::trigger_interrupts(InterruptKind /*kind*/, std::uint32_t /*start*/, std::uint32_t /*count*/) {
  return Error(ENOTTY, "these interrupts cannot be triggered by call").on(name());
}

Result<unsigned> Handle::usable_vectors(InterruptKind kind, unsigned advertised) {
  OUTBOARD_TRY(const InterruptInfo info, interrupts(kind));
  return std::min<unsigned>(advertised, info.count);
}

Result<unsigned> Handle::msix_vector_count() {
  OUTBOARD_TRY(const auto msix, find_capability(capability_id::msix));
  if (!msix) return 0u;
  OUTBOARD_TRY(const auto control, config().read_at<MsixControl>(msix->offset + MsixControl::in_capability));
  return usable_vectors(InterruptKind::msix, control.get(MsixControl::table_size) + 1u);
}

Result<unsigned> Handle::msi_vector_count() {
  OUTBOARD_TRY(const auto msi, find_capability(capability_id::msi));
  if (!msi) return 0u;
  OUTBOARD_TRY(const auto control, config().read_at<MsiControl>(msi->offset + MsiControl::in_capability));
  // 6 and 7 are reserved: no more than 32 whatever it says.
  const auto log2 = std::min<unsigned>(control.get(MsiControl::multiple_message_capable), 5);
  return usable_vectors(InterruptKind::msi, 1u << log2);
}

/// The control register of MSI and of MSI-X lies at the same place of their capabilities. A function without the
/// capability has nothing to set.
Status Handle::set_message_control(std::uint16_t capability, std::uint16_t clear, std::uint16_t set) {
  OUTBOARD_TRY(const auto found, find_capability(capability));
  if (!found) return {};
  const ConfigOffset at = found->offset + MsixControl::in_capability;
  OUTBOARD_TRY(const auto control, config().read_at<MsixControl>(at));
  const auto wanted = static_cast<std::uint16_t>((control.value() & ~clear) | set);
  if (wanted == control.value()) return {};
  return config().write_at(at, MsixControl(wanted));
}

Status Handle::enable_in_config(InterruptKind kind, unsigned count) {
  // Only one of the three may be on; a driver before us may have left another.
  for (const auto other : {InterruptKind::msi, InterruptKind::msix}) {
    if (other != kind) OUTBOARD_CHECK(disable_in_config(other));
  }
  if (kind == InterruptKind::msix) {
    return set_message_control(capability_id::msix, MsixControl::function_mask.mask, MsixControl::enable.mask);
  }
  if (kind == InterruptKind::msi) {
    const MsiControl vectors =
        with(MsiControl(), MsiControl::multiple_message_enable, static_cast<std::uint16_t>(std::bit_width(count - 1)));
    return set_message_control(capability_id::msi, MsiControl::multiple_message_enable.mask,
                               with(vectors, MsiControl::enable, 1).value());
  }
  return kind == InterruptKind::intx ? set_command(Command::interrupt_disable.mask, 0) : Status();
}

Status Handle::disable_in_config(InterruptKind kind) {
  switch (kind) {
    case InterruptKind::intx:
      return set_command(0, Command::interrupt_disable.mask);
    case InterruptKind::msi:
      return set_message_control(capability_id::msi, MsiControl::enable.mask, 0);
    case InterruptKind::msix:
      return set_message_control(capability_id::msix, MsixControl::enable.mask, 0);
    default:
      return {};
  }
}

Result<InterruptSet> Handle::enable_interrupts(InterruptKind kind, unsigned count) {
  if (enabled_) return Error(EBUSY, "a set of interrupts is enabled already").on(name());
  if (count == 0) return Error(EINVAL, "no interrupt vector was asked for").on(name());
  OUTBOARD_TRY(const InterruptInfo info, interrupts(kind));
  if (info.count < count) {
    return Error(ENOSPC, "the function has " + std::to_string(info.count) + " of the " + std::to_string(count) +
                             " interrupt vectors asked for")
        .on(name());
  }
  std::vector<EventFd> eventfds;
  for (unsigned i = 0; i < count; ++i) {
    OUTBOARD_TRY(EventFd eventfd, EventFd::create());
    eventfds.push_back(std::move(eventfd));
  }
  OUTBOARD_CHECK(bind_interrupts(kind, 0, eventfds));
  if (const Status enabled = enable_in_config(kind, count); !enabled) {
    // What went wrong first is what the caller should hear about.
    [[maybe_unused]] const Status undone = end_interrupts(kind);
    return enabled.error();
  }
  enabled_ = kind;
  return InterruptSet(*this, kind, std::move(eventfds));
}

Result<InterruptSet> Handle::enable_interrupts_up_to(InterruptKind kind, unsigned wanted) {
  OUTBOARD_TRY(InterruptInfo info, interrupts(kind));
  while (info.count != 0) {
    auto set = enable_interrupts(kind, std::min<unsigned>(wanted, info.count));
    if (set || set.error().code() != ENOSPC) return set;
    // A machine that can give fewer than the function has says so only when asked for them; then it has been counted.
    const std::uint32_t before = info.count;
    OUTBOARD_TRY(info, interrupts(kind));
    if (info.count >= before) return set;
  }
  return InterruptSet();
}

/// The function stops using them before what they are bound to goes away.
Status Handle::end_interrupts(InterruptKind kind) {
  const Status off = disable_in_config(kind);
  const Status unbound = disable_interrupts(kind);
  return off ? unbound : off;
}

Status InterruptSet::unmask() {
  if (handle_ == nullptr || kind_ != InterruptKind::intx) return {};
  return handle_->unmask_interrupts(kind_, 0, 1);
}

void InterruptSet::reset() {
  if (handle_ == nullptr) return;
  Handle& handle = *std::exchange(handle_, nullptr);
  // Fails when the other side has gone: then nobody signals any more either.
  [[maybe_unused]] const Status ended = handle.end_interrupts(kind_);
  handle.enabled_.reset();
  vectors_.clear();
}

}  // namespace outboard::pci
