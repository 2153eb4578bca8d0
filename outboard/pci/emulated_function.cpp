#include <outboard/pci/emulated_function.hpp>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <outboard/base/internal/process_memory.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/express_registers.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {

namespace {

using Present = ConfigSpace::Present;

constexpr std::uint64_t min_memory_bar = 16;
constexpr std::uint64_t max_32bit_bar = UINT64_C(1) << 31;

bool overlap(std::uint64_t a, std::uint64_t a_size, std::uint64_t b, std::uint64_t b_size) {
  return a < b + b_size && b < a + a_size;
}

/// One of the memory accesses a driver makes, where it is one; bytes otherwise. The area is shared with another process,
/// which must never see half of a register (docs/memory-ordering.md, row M13).
template <typename T>
bool store_whole(std::byte* at, Bytes from) {
  if (from.size() != sizeof(T) || reinterpret_cast<std::uintptr_t>(at) % sizeof(T) != 0) return false;
  T value;
  std::memcpy(&value, from.data(), sizeof value);
  std::atomic_ref<T>(*reinterpret_cast<T*>(at)).store(value, std::memory_order_release);
  return true;
}

template <typename T>
bool load_whole(std::byte* at, MutableBytes into) {
  if (into.size() != sizeof(T) || reinterpret_cast<std::uintptr_t>(at) % sizeof(T) != 0) return false;
  const T value = std::atomic_ref<T>(*reinterpret_cast<T*>(at)).load(std::memory_order_acquire);
  std::memcpy(into.data(), &value, sizeof value);
  return true;
}

void store_shared(std::byte* at, Bytes from) {
  if (store_whole<std::uint64_t>(at, from) || store_whole<std::uint32_t>(at, from) ||
      store_whole<std::uint16_t>(at, from)) {
    return;
  }
  std::memcpy(at, from.data(), from.size());
}

void load_shared(std::byte* at, MutableBytes into) {
  if (load_whole<std::uint64_t>(at, into) || load_whole<std::uint32_t>(at, into) ||
      load_whole<std::uint16_t>(at, into)) {
    return;
  }
  std::memcpy(into.data(), at, into.size());
}

/// A memory file of `size` bytes that nobody, the client included, can make shorter or longer.
Result<UniqueFd> make_area_file(std::uint64_t size) {
  UniqueFd fd(::memfd_create("outboard-bar", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return Error::from_errno("making the memory of a BAR");
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return Error::from_errno("making the memory of a BAR");
  }
  return fd;
}

constexpr ConfigStructure capability(std::uint16_t id) { return {ConfigPart::capability, id}; }

// Power-on: relaxed ordering and no snoop allowed, read requests of 512 bytes. Payloads have 128 bytes.
constexpr DeviceControl device_control_at_power_on =
    with(DeviceControl(mask_of(DeviceControl::relaxed_ordering, DeviceControl::no_snoop)),
         DeviceControl::max_read_request_size, 2);
constexpr std::uint32_t device_control_bits =
    mask_of(DeviceControl::correctable_error_reporting, DeviceControl::non_fatal_error_reporting,
            DeviceControl::fatal_error_reporting, DeviceControl::unsupported_request_reporting,
            DeviceControl::relaxed_ordering, DeviceControl::extended_tag_field, DeviceControl::no_snoop,
            DeviceControl::max_read_request_size, DeviceControl::initiate_function_level_reset);
constexpr LinkCapabilities lowest_link =
    with(with(LinkCapabilities(), LinkCapabilities::max_link_speed, 1), LinkCapabilities::max_link_width, 1);

/// A link at the lowest speed and width, since there is none; what is advertised is what can be written.
const Present express_registers[] = {
    {.offset = ExpressCapabilities::in_capability,
     .width = 2,
     .value = with(ExpressCapabilities(), ExpressCapabilities::version, 2).value()},
    {.offset = DeviceCapabilities::in_capability,
     .width = 4,
     .value = mask_of(DeviceCapabilities::function_level_reset, DeviceCapabilities::role_based_error_reporting,
                      DeviceCapabilities::extended_tag_field_supported)},
    {.offset = DeviceControl::in_capability,
     .width = 2,
     .value = device_control_at_power_on.value(),
     .bits = device_control_bits},
    {.offset = DeviceStatus::in_capability, .width = 2},
    {.offset = LinkCapabilities::in_capability, .width = 4, .value = lowest_link.value()},
    // No power management of the link.
    {.offset = LinkControl::in_capability,
     .width = 2,
     .bits = mask_of(LinkControl::read_completion_boundary, LinkControl::common_clock, LinkControl::extended_synch)},
    {.offset = LinkStatus::in_capability,
     .width = 2,
     .value = with(with(LinkStatus(), LinkStatus::link_speed, 1), LinkStatus::link_width, 1).value()},
    {.offset = LinkCapabilities2::in_capability,
     .width = 4,
     .value = with(LinkCapabilities2(), LinkCapabilities2::supported_link_speeds, 1).value()},
    {.offset = LinkControl2::in_capability,
     .width = 2,
     .value = with(LinkControl2(), LinkControl2::target_link_speed, 1).value()},
};

}  // namespace

EmulatedFunction::EmulatedFunction(Loop& loop, Log log, const FunctionIdentity& identity)
    : loop_(loop), log_(std::move(log)), config_(identity), memory_(loop), interrupts_(loop) {
  config_.on_read(StatusRegister::offset, 2, [this] {
    const auto status = config_.get<StatusRegister>();
    config_.set_at(StatusRegister::offset, with(status, StatusRegister::interrupt, interrupts_.intx_level() ? 1 : 0));
  });
  config_.on_write(Command::offset, 2, [this](std::uint32_t, std::uint32_t) { apply_config(); });
  if (identity.express) add_express_capabilities(identity.no_soft_reset);
}

void EmulatedFunction::add_express_capabilities(bool no_soft_reset) {
  // D0 and D3hot, no PME.
  static constexpr auto version_3 = with(PowerManagementCapabilities(), PowerManagementCapabilities::version, 3);
  const std::uint32_t at_power_on = no_soft_reset ? mask_of(PowerManagementControl::no_soft_reset) : 0;
  const Present power_registers[] = {
      {.offset = PowerManagementCapabilities::in_capability, .width = 2, .value = version_3.value()},
      {.offset = PowerManagementControl::in_capability,
       .width = 2,
       .value = at_power_on,
       .bits = mask_of(PowerManagementControl::power_state)},
  };
  const auto power = config_.add_known(capability(capability_id::power_management),
                                       PowerManagementControl::capability_length, power_registers);
  if (power) {
    power_management_ = *power;
    config_.on_write(*power + PowerManagementControl::in_capability, 2,
                     [this](std::uint32_t before, std::uint32_t now) { power_state_written(before, now); });
  }
  const auto express =
      config_.add_known(capability(capability_id::express), ExpressCapabilities::capability_length, express_registers);
  if (express) {
    const ConfigOffset at = *express + DeviceControl::in_capability;
    config_.on_write(at, 2, [this, at](std::uint32_t, std::uint32_t now) {
      const DeviceControl control(static_cast<std::uint16_t>(now));
      if (control.get(DeviceControl::initiate_function_level_reset) == 0) return;
      config_.set_at(at, with(control, DeviceControl::initiate_function_level_reset, 0));
      start_reset();
    });
    const ConfigOffset status_at = *express + DeviceStatus::in_capability;
    config_.on_read(status_at, 2, [this, status_at] {
      const auto status = config_.get_at<DeviceStatus>(status_at);
      config_.set_at(status_at, with(status, DeviceStatus::transactions_pending, resetting_ ? 1 : 0));
    });
  }
}

// Making it.

bool EmulatedFunction::BarState::add_part(const Part& part) {
  if (part.size == 0 || !range_within(part.start, part.size, spec.size)) return false;
  const auto next =
      std::ranges::find_if(parts, [&](const Part& other) { return other.start + other.size > part.start; });
  if (next != parts.end() && overlap(next->start, next->size, part.start, part.size)) return false;
  parts.insert(next, part);
  return true;
}

EmulatedFunction::Part EmulatedFunction::BarState::part_at(std::uint64_t offset) const {
  std::uint64_t start = 0;
  for (const Part& part : parts) {
    if (offset < part.start) return {.kind = Part::Kind::registers, .start = start, .size = part.start - start};
    start = part.start + part.size;
    if (offset < start) return part;
  }
  return {.kind = Part::Kind::registers, .start = start, .size = spec.size - start};
}

Status EmulatedFunction::add_bar(unsigned index, const BarSpec& wanted) {
  BarSpec spec = wanted;
  spec.size = std::max(spec.size, min_memory_bar);
  const auto taken = [this](unsigned at) {
    return at >= bars_.size() || bars_[at] || (at > 0 && bars_[at - 1] && bars_[at - 1]->spec.is_64bit);
  };
  if (taken(index) || (spec.is_64bit && taken(index + 1))) return Error(EINVAL, "this BAR is taken");
  if (!std::has_single_bit(spec.size)) return Error(EINVAL, "the size of a BAR is a power of two");
  if (!spec.is_64bit && spec.size > max_32bit_bar) return Error(EINVAL, "the BAR is too large for 32 bits");

  BarState bar{.spec = spec, .parts = {}, .shared = {}, .fd = {}};
  std::uint64_t end = 0;
  for (const MmapArea& area : spec.areas) {
    if (area.offset % page_size() != 0 || area.size % page_size() != 0 ||
        !bar.add_part({.kind = Part::Kind::area, .start = area.offset, .size = area.size})) {
      return Error(EINVAL, "a mapped area consists of whole pages of its BAR");
    }
    end = std::max(end, area.offset + area.size);
  }
  if (end != 0) {
    OUTBOARD_TRY(bar.fd, make_area_file(end));
    OUTBOARD_TRY(bar.shared, memory::HostMemory::map_file(bar.fd, 0, end, memory::Access::read_write));
  }
  config_.add_base_address(index, {.size = spec.size, .is_64bit = spec.is_64bit, .prefetchable = spec.prefetchable});
  bars_[index] = std::move(bar);
  return {};
}

void EmulatedFunction::update_interrupt_counts() { interrupts_.set_counts(intx_count_, msi_count_, msix_count_); }

Status EmulatedFunction::add_msix(unsigned vectors, unsigned bar, std::uint32_t table_offset,
                                  std::uint32_t pba_offset) {
  if (vectors == 0 || vectors > MsixControl::max_vectors || bar >= bars_.size() || !bars_[bar] || msix_) {
    return Error(EINVAL, "MSI-X takes 1 to 2048 vectors and a BAR that is there");
  }
  std::vector<Part>& parts = bars_[bar]->parts;
  const std::vector<Part> before = parts;
  const std::uint64_t pba_size = (std::uint64_t{vectors} + 63) / 64 * 8;
  const std::uint64_t table_size = std::uint64_t{vectors} * msix_entry::size;
  if (table_offset % 8 != 0 || pba_offset % 8 != 0 ||
      !bars_[bar]->add_part({.kind = Part::Kind::msix_table, .start = table_offset, .size = table_size}) ||
      !bars_[bar]->add_part({.kind = Part::Kind::msix_pba, .start = pba_offset, .size = pba_size})) {
    parts = before;
    return Error(EINVAL, "the MSI-X table and pending bits do not fit into the BAR");
  }
  const Present registers[] = {
      {.offset = MsixControl::in_capability, .width = 2, .value = vectors - 1},
      {.offset = MsixTable::in_capability, .width = 4, .value = table_offset | bar},
      {.offset = MsixPendingBits::in_capability, .width = 4, .value = pba_offset | bar},
  };
  auto at = config_.add_known(capability(capability_id::msix), MsixControl::capability_length, registers);
  if (!at) {
    parts = before;
    return at.error();
  }
  msix_ = *at;
  msix_count_ = vectors;
  update_interrupt_counts();
  config_.on_write(*at + MsixControl::in_capability, 2, [this](std::uint32_t, std::uint32_t) { apply_config(); });
  return {};
}

Status EmulatedFunction::add_msi(unsigned vectors) {
  if (!std::has_single_bit(vectors) || vectors > MsiControl::max_vectors || msi_) {
    return Error(EINVAL, "MSI takes 1, 2, 4, 8, 16 or 32 vectors");
  }
  MsiControl control;
  control = with(control, MsiControl::multiple_message_capable, static_cast<std::uint16_t>(std::countr_zero(vectors)));
  control = with(with(control, MsiControl::address_64bit, 1), MsiControl::per_vector_masking, 1);
  const Present registers[] = {
      {.offset = MsiControl::in_capability, .width = 2, .value = control.value()},
      {.offset = msi64::address, .width = 4},
      {.offset = msi64::upper_address, .width = 4},
      {.offset = msi64::data, .width = 2},
      {.offset = msi64::mask, .width = 4, .bits = static_cast<std::uint32_t>((UINT64_C(1) << vectors) - 1)},
  };
  OUTBOARD_TRY(const ConfigOffset at, config_.add_known(capability(capability_id::msi), msi64::length, registers));
  msi_ = at;
  msi_count_ = vectors;
  update_interrupt_counts();
  config_.on_write(at + MsiControl::in_capability, 2, [this](std::uint32_t, std::uint32_t) { msi_written(); });
  config_.on_write(at + msi64::mask, 4, [this](std::uint32_t, std::uint32_t) { apply_config(); });
  config_.on_read(at + msi64::pending, 4,
                  [this, at] { config_.set(at + msi64::pending, 4, interrupts_.msi_pending()); });
  return {};
}

Status EmulatedFunction::add_intx() {
  config_.add({.offset = raw(InterruptPin::offset), .width = 1, .value = InterruptPin::inta});
  intx_count_ = 1;
  update_interrupt_counts();
  return {};
}

Status EmulatedFunction::add_vital_product_data(std::unique_ptr<VitalProductData> data) {
  if (vital_product_data_) return Error(EINVAL, "there is vital product data already");
  const Present registers[] = {{.offset = VpdAddress::in_capability, .width = 2},
                               {.offset = VpdData::in_capability, .width = 4}};
  OUTBOARD_TRY(const ConfigOffset at, config_.add_known(capability(capability_id::vital_product_data),
                                                        VpdAddress::capability_length, registers));
  vital_product_data_ = std::move(data);
  // The flag lies in the upper byte: writing that one starts a transfer.
  config_.on_write(at + VpdAddress::in_capability + 1, 1,
                   [this, at](std::uint32_t, std::uint32_t) { transfer_vital_product_data(at); });
  return {};
}

Status EmulatedFunction::add_advanced_features() {
  const std::uint32_t offered =
      mask_of(AdvancedFeaturesCapabilities::function_level_reset, AdvancedFeaturesCapabilities::transactions_pending);
  const Present registers[] = {
      {.offset = AdvancedFeaturesCapabilities::length_in_capability,
       .width = 1,
       .value = AdvancedFeaturesCapabilities::capability_length},
      {.offset = AdvancedFeaturesCapabilities::in_capability, .width = 1, .value = offered},
      {.offset = AdvancedFeaturesControl::in_capability, .width = 1},
  };
  OUTBOARD_TRY(const ConfigOffset base, config_.add_known(capability(capability_id::advanced_features),
                                                          AdvancedFeaturesCapabilities::capability_length, registers));
  const ConfigOffset at = base + AdvancedFeaturesControl::in_capability;
  config_.on_write(at, 1, [this, at](std::uint32_t, std::uint32_t now) {
    if (now == 0) return;
    config_.set_at(at, AdvancedFeaturesControl());
    start_reset();
  });
  const ConfigOffset status_at = base + AdvancedFeaturesStatus::in_capability;
  config_.on_read(status_at, 1, [this, status_at] {
    const AdvancedFeaturesStatus idle;
    config_.set_at(status_at, with(idle, AdvancedFeaturesStatus::transactions_pending, resetting_ ? 1 : 0));
  });
  return {};
}

Result<ConfigOffset> EmulatedFunction::add_error_reporting(const ReportedErrors& errors) {
  const std::uint32_t control =
      mask_of(AdvancedErrorControl::ecrc_generation_enable, AdvancedErrorControl::ecrc_check_enable);
  const Present registers[] = {
      {.offset = UncorrectableErrorStatus::in_capability, .width = 4, .bits = errors.uncorrectable},
      {.offset = UncorrectableErrorMask::in_capability, .width = 4, .bits = errors.uncorrectable},
      {.offset = UncorrectableErrorSeverity::in_capability,
       .width = 4,
       .value = errors.uncorrectable & errors.fatal,
       .bits = errors.uncorrectable},
      {.offset = CorrectableErrorStatus::in_capability, .width = 4, .bits = errors.correctable},
      {.offset = CorrectableErrorMask::in_capability, .width = 4, .bits = errors.correctable},
      {.offset = AdvancedErrorControl::in_capability, .width = 4, .bits = errors.ecrc ? control : 0},
  };
  return config_.add_known({ConfigPart::extended_capability, extended_capability_id::advanced_error_reporting},
                           AdvancedErrorControl::capability_length, registers, 2);
}

MutableBytes EmulatedFunction::area(unsigned bar, std::size_t index) const {
  if (bar >= bars_.size() || !bars_[bar] || index >= bars_[bar]->spec.areas.size()) return {};
  const MmapArea& area = bars_[bar]->spec.areas[index];
  return {bars_[bar]->shared->data() + area.offset, area.size};
}

// What it is.

RegionInfo EmulatedFunction::region(unsigned index) const {
  if (index == region::config) return {.size = config_.size(), .readable = true, .writable = true, .areas = {}};
  if (index >= bars_.size() || !bars_[index]) return {};
  const BarState& bar = *bars_[index];
  return {.size = bar.spec.size,
          .readable = true,
          .writable = true,
          .areas = bar.spec.areas,
          .fd = bar.fd ? &bar.fd : nullptr,
          .fd_offset = 0};
}

InterruptInfo EmulatedFunction::interrupts(InterruptKind kind) const { return interrupts_.info(kind); }

// Register accesses.

bool EmulatedFunction::in_d0() const {
  if (!power_management_) return true;
  const auto control =
      config_.get_at<PowerManagementControl>(*power_management_ + PowerManagementControl::in_capability);
  return control.get(PowerManagementControl::power_state) == PowerManagementControl::d0;
}

bool EmulatedFunction::decodes_memory() const {
  return !resetting_ && in_d0() && config_.get<Command>().get(Command::memory_space) != 0;
}

Status EmulatedFunction::read_checked(unsigned region, std::uint64_t offset, MutableBytes into) {
  if (region == region::config) {
    config_.read(offset, into);
    return {};
  }
  while (!into.empty()) {
    const Part part = bars_[region]->part_at(offset);
    const auto length = std::min<std::uint64_t>(into.size(), part.start + part.size - offset);
    // In the loop: reading one register may make the function stop decoding.
    if (decodes_memory()) {
      read_part(region, part, offset, into.first(length));
    } else {
      std::ranges::fill(into.first(length), std::byte{0xFF});
    }
    into = into.subspan(length);
    offset += length;
  }
  return {};
}

Status EmulatedFunction::write_checked(unsigned region, std::uint64_t offset, Bytes from) {
  if (region == region::config) {
    config_.write(offset, from);
    return {};
  }
  while (!from.empty()) {
    const Part part = bars_[region]->part_at(offset);
    const auto length = std::min<std::uint64_t>(from.size(), part.start + part.size - offset);
    if (decodes_memory()) write_part(region, part, offset, from.first(length));
    from = from.subspan(length);
    offset += length;
  }
  return {};
}

void EmulatedFunction::read_part(unsigned bar, const Part& part, std::uint64_t offset, MutableBytes into) {
  switch (part.kind) {
    case Part::Kind::registers:
      return read_bar(bar, offset, into);
    case Part::Kind::area:
      return load_shared(bars_[bar]->shared->data() + offset, into);
    case Part::Kind::msix_table:
      return interrupts_.read_table(offset - part.start, into);
    case Part::Kind::msix_pba:
      return interrupts_.read_pba(offset - part.start, into);
  }
}

void EmulatedFunction::write_part(unsigned bar, const Part& part, std::uint64_t offset, Bytes from) {
  switch (part.kind) {
    case Part::Kind::registers:
      return write_bar(bar, offset, from);
    case Part::Kind::area:
      store_shared(bars_[bar]->shared->data() + offset, from);
      return area_written(bar, offset, from);
    case Part::Kind::msix_table:
      return interrupts_.write_table(offset - part.start, from);
    case Part::Kind::msix_pba:
      return;  // read-only
  }
}

// Memory and interrupts.

Status EmulatedFunction::map(memory::Mapping mapping) {
  mapping.file.reset();
  return memory_.map(std::move(mapping));
}

void EmulatedFunction::unmap(memory::IovaRange range, Completion done) { memory_.unmap(range, std::move(done)); }

void EmulatedFunction::unmap_all(Completion done) { memory_.clear(std::move(done)); }

Status EmulatedFunction::bind_interrupts(InterruptKind kind, std::uint32_t start, std::vector<EventFd> eventfds) {
  return interrupts_.bind(kind, start, std::move(eventfds));
}

Status EmulatedFunction::bind_unmask(EventFd eventfd) { return interrupts_.bind_unmask(std::move(eventfd)); }

Status EmulatedFunction::disable_interrupts(InterruptKind kind) { return interrupts_.disable(kind); }

Status EmulatedFunction::trigger_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return interrupts_.trigger(kind, start, count);
}

Status EmulatedFunction::mask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return interrupts_.mask(kind, start, count);
}

Status EmulatedFunction::unmask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return interrupts_.unmask(kind, start, count);
}

// What registers do.

void EmulatedFunction::apply_config() {
  const auto command = config_.get<Command>();
  const bool may_send = in_d0() && !resetting_ && motion_ != Motion::stopped;
  interrupts_.set_intx_disabled(!may_send || command.get(Command::interrupt_disable) != 0);
  if (msi_) {
    const auto control = config_.get_at<MsiControl>(*msi_ + MsiControl::in_capability);
    interrupts_.set_msi_control(control.get(MsiControl::enable) != 0, config_.get(*msi_ + msi64::mask, 4));
  }
  if (msix_) {
    const auto control = config_.get_at<MsixControl>(*msix_ + MsixControl::in_capability);
    interrupts_.set_msix_control(control.get(MsixControl::enable) != 0, control.get(MsixControl::function_mask) != 0);
  }
  const bool bus_master = may_send && command.get(Command::bus_master) != 0;
  interrupts_.set_bus_master(bus_master);
  if (bus_master == bus_master_) return;
  bus_master_ = bus_master;
  bus_master_changed(bus_master);
}

void EmulatedFunction::msi_written() {
  const ConfigOffset at = *msi_ + MsiControl::in_capability;
  const auto control = config_.get_at<MsiControl>(at);
  // A function cannot send more messages than it is capable of; nor is it told so by real ones.
  const auto offered = control.get(MsiControl::multiple_message_capable);
  const auto wanted = control.get(MsiControl::multiple_message_enable);
  config_.set_at(at, with(control, MsiControl::multiple_message_enable, std::min(offered, wanted)));
  apply_config();
}

void EmulatedFunction::power_state_written(std::uint32_t old_value, std::uint32_t new_value) {
  using Control = PowerManagementControl;
  const Control before(static_cast<std::uint16_t>(old_value)), now(static_cast<std::uint16_t>(new_value));
  const auto state = now.get(Control::power_state);
  // Power Management 1.2, 3.2.4: a state that is not supported (D1, D2) is discarded.
  if (state != Control::d0 && state != Control::d3hot) {
    config_.set_at(*power_management_ + Control::in_capability, before);
    return;
  }
  const bool awakes = state == Control::d0 && before.get(Control::power_state) == Control::d3hot;
  if (awakes && now.get(Control::no_soft_reset) == 0) return start_reset();
  apply_config();
}

void EmulatedFunction::transfer_vital_product_data(ConfigOffset base) {
  const ConfigOffset at = base + VpdAddress::in_capability, data = base + VpdData::in_capability;
  const auto command = config_.get_at<VpdAddress>(at);
  const std::uint16_t address = command.get(VpdAddress::address);
  // What cannot be done leaves the flag as it was written: the driver's wait for it to change ends in its own time.
  if (address % 4 != 0) return;
  if (command.get(VpdAddress::flag) != 0) {
    if (!vital_product_data_->write(address, config_.get(data, 4))) return;
    config_.set_at(at, with(command, VpdAddress::flag, 0));
  } else {
    const auto value = vital_product_data_->read(address);
    if (!value) return;
    config_.set(data, 4, *value);
    config_.set_at(at, with(command, VpdAddress::flag, 1));
  }
}

// Reset.

void EmulatedFunction::reset(Completion done) {
  reset_waiters_.push_back(std::move(done));
  start_reset();
}

void EmulatedFunction::start_reset() {
  const bool running = std::exchange(resetting_, true);
  if (motion_ == Motion::stopped) motion_ = Motion::running;
  config_.reset();
  interrupts_.reset();
  apply_config();
  if (running) return;
  reset_device([this, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) finish_reset();
  });
}

void EmulatedFunction::finish_reset() {
  // What the device raised while it was stopping is of the time before.
  interrupts_.reset();
  resetting_ = false;
  apply_config();
  for (Completion& done : std::exchange(reset_waiters_, {})) done({});
}

void EmulatedFunction::release_client(Completion done) {
  // The addresses that the device knows mean nothing in the memory of the next client: no DMA before that one asks for it.
  config_.set_at(Command::offset, with(config_.get<Command>(), Command::bus_master, 0));
  apply_config();
  // Nobody else would let it go on. What cannot, since its state was loaded and is of other memory, begins anew.
  if (motion_ == Motion::stopped && !run()) start_reset();
  stop_dirty_log();
  interrupts_.release_client();
  memory_.clear(std::move(done));
}

}  // namespace outboard::pci
