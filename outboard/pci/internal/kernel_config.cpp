#include <outboard/pci/internal/kernel_config.hpp>

#include <algorithm>
#include <bit>
#include <vector>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/express_registers.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {

namespace {

namespace cap = capability_id;

std::uint16_t base_at(unsigned index) { return raw(base_register::offset_of(index)); }

constexpr std::uint32_t decoding = Command::memory_space.mask | Command::io_space.mask;

}  // namespace

KernelConfig::KernelConfig(Device& device, Bytes image, const Facts& facts)
    : ConfigOverlay(device, ConfigPolicy::kernel_mirror, image), device_(device) {
  for (unsigned index = 0; index < saved_bases_.size(); ++index) {
    saved_bases_[index] = get(base_at(index), 4);
    set_base_address(index, facts.base_sizes[index]);
  }
  settle_base_addresses();
  if (!facts.intx) set(raw(InterruptPin::offset), 1, InterruptPin::none);
  intx_disabled_ = get<Command>(raw(Command::offset)).get(Command::interrupt_disable) != 0;
}

Result<std::unique_ptr<KernelConfig>> KernelConfig::create(Device& device, const Facts& facts) {
  OUTBOARD_TRY(const auto image, read_image(device, facts.size));
  return std::unique_ptr<KernelConfig>(new KernelConfig(device, image, facts));
}

bool KernelConfig::memory_enabled() const {
  return power_state_ < PowerManagementControl::d3hot &&
         get<Command>(raw(Command::offset)).get(Command::memory_space) != 0;
}

bool KernelConfig::inside(Chunk chunk, std::uint8_t capability) const {
  const auto owner = map().at(chunk.at).owner;
  return owner != ConfigMap::gap_owner &&
         map().structures()[owner].structure == ConfigStructure{ConfigPart::capability, capability};
}

Status KernelConfig::write_chunk(Chunk chunk, std::uint32_t value) {
  if (chunk.at < config_size::header) return write_header(chunk, value);
  if (inside(chunk, cap::msi)) return write_msi(chunk, value);
  if (inside(chunk, cap::express)) return write_express(chunk, value);
  if (inside(chunk, cap::advanced_features)) return write_advanced_features(chunk, value);
  if (inside(chunk, cap::power_management)) return write_power(chunk, value);
  if (inside(chunk, cap::vital_product_data)) return write_vital_product_data(chunk, value);
  return ConfigOverlay::write_chunk(chunk, value);
}

// The header.

Status KernelConfig::write_header(Chunk chunk, std::uint32_t value) {
  const bool command = chunk.at == raw(Command::offset);
  if (command) OUTBOARD_CHECK(before_command(value));
  OUTBOARD_CHECK(ConfigOverlay::write_chunk(chunk, value));
  if (chunk.touches(raw(Command::offset), 2)) after_command(chunk, value);
  settle_base_addresses();
  return {};
}

Status KernelConfig::before_command(std::uint32_t value) {
  if ((value & Command::memory_space.mask) == 0) device_.memory_decoding(false);
  return restore_lost_bases(value);
}

/// A device that was reset behind the kernel's back has forgotten where its BARs are. Seen when decoding is to stay on and
/// the hardware has it off, or has other addresses than it was given.
Status KernelConfig::restore_lost_bases(std::uint32_t value) {
  OUTBOARD_TRY(const std::uint32_t hardware, hardware_read(raw(Command::offset), 2));
  const std::uint32_t stays = get(raw(Command::offset), 2) & value & decoding;
  bool lost = (stays & ~hardware) != 0;
  for (unsigned index = 0; index < base_register::rom && !lost; ++index) {
    OUTBOARD_TRY(const std::uint32_t base, hardware_read(base_at(index), 4));
    lost = base != saved_bases_[index];
  }
  if (!lost) return {};
  for (unsigned index = 0; index < saved_bases_.size(); ++index) {
    OUTBOARD_CHECK(hardware_write(base_at(index), 4, saved_bases_[index]));
  }
  return {};
}

void KernelConfig::after_command(Chunk chunk, std::uint32_t value) {
  const auto at = raw(Command::offset);
  if (chunk.at == at) {
    const bool was_on = get<Command>(at).get(Command::memory_space) != 0;
    set(at, 2, (get(at, 2) & ~decoding) | (value & decoding));
    const bool on = (value & Command::memory_space.mask) != 0;
    if (on && !was_on) device_.memory_decoding(true);
  }
  const bool disabled = get<Command>(at).get(Command::interrupt_disable) != 0;
  if (disabled != std::exchange(intx_disabled_, disabled)) device_.intx_disabled(disabled);
}

// Capabilities.

/// MSI can be switched off by a write, and never on: that is VFIO_DEVICE_SET_IRQS's.
Status KernelConfig::write_msi(Chunk chunk, std::uint32_t value) {
  OUTBOARD_CHECK(ConfigOverlay::write_chunk(chunk, value));
  const std::uint16_t at = register_of(cap::msi, MsiControl::in_capability).value_or(0);
  if (at == 0 || !chunk.touches(at)) return {};
  auto control = get<MsiControl>(at);
  if (msi_vectors_ == 0) control = with(control, MsiControl::enable, 0);
  const auto granted = static_cast<std::uint16_t>(msi_vectors_ == 0 ? 0 : std::bit_width(msi_vectors_ - 1));
  const auto wanted = control.get(MsiControl::multiple_message_enable);
  control = with(control, MsiControl::multiple_message_enable, std::min(granted, wanted));
  set(at, 2, control.value());
  return hardware_write(at, 2, control.value());
}

Status KernelConfig::write_express(Chunk chunk, std::uint32_t value) {
  OUTBOARD_CHECK(ConfigOverlay::write_chunk(chunk, value));
  const std::uint16_t at = register_of(cap::express, DeviceControl::in_capability).value_or(0);
  const std::uint16_t capabilities = register_of(cap::express, DeviceCapabilities::in_capability).value_or(0);
  if (at == 0) return {};
  const auto control = get<DeviceControl>(at);
  if (control.get(DeviceControl::initiate_function_level_reset) != 0) {
    set(at, 2, with(control, DeviceControl::initiate_function_level_reset, 0).value());
    OUTBOARD_TRY(const std::uint32_t offered, hardware_read(capabilities, 4));
    if (DeviceCapabilities(offered).get(DeviceCapabilities::function_level_reset) != 0) device_.reset_function();
  }
  if (!chunk.touches(at, 2)) return {};
  // A read request smaller than a payload would be split on the way by nobody.
  OUTBOARD_TRY(const std::uint32_t now, hardware_read(at, 2));
  const DeviceControl hardware(static_cast<std::uint16_t>(now));
  const auto size = std::max(get<DeviceControl>(at).get(DeviceControl::max_read_request_size),
                             hardware.get(DeviceControl::max_payload_size));
  const auto wanted = with(hardware, DeviceControl::max_read_request_size, size);
  return wanted.value() == now ? Status() : hardware_write(at, 2, wanted.value());
}

Status KernelConfig::write_advanced_features(Chunk chunk, std::uint32_t value) {
  OUTBOARD_CHECK(ConfigOverlay::write_chunk(chunk, value));
  const std::uint16_t at = register_of(cap::advanced_features, AdvancedFeaturesControl::in_capability).value_or(0);
  if (at == 0 || get<AdvancedFeaturesControl>(at).value() == 0) return {};
  set(at, 1, 0);
  const std::uint16_t capabilities =
      register_of(cap::advanced_features, AdvancedFeaturesCapabilities::in_capability).value_or(0);
  OUTBOARD_TRY(const std::uint32_t offered, hardware_read(capabilities, 1));
  const std::uint32_t needed =
      mask_of(AdvancedFeaturesCapabilities::function_level_reset, AdvancedFeaturesCapabilities::transactions_pending);
  if ((offered & needed) == needed) device_.reset_function();
  return {};
}

Status KernelConfig::write_power(Chunk chunk, std::uint32_t value) {
  OUTBOARD_CHECK(ConfigOverlay::write_chunk(chunk, value));
  const auto at = register_of(cap::power_management, PowerManagementControl::in_capability);
  if (!at || chunk.at != *at) return {};
  const unsigned state = value & PowerManagementControl::power_state.mask;
  if (state == power_state_) return {};
  if (state == PowerManagementControl::d3hot) device_.memory_decoding(false);
  power_state_ = state;
  device_.set_power_state(state);
  return {};
}

Status KernelConfig::write_vital_product_data(Chunk chunk, std::uint32_t value) {
  OUTBOARD_CHECK(ConfigOverlay::write_chunk(chunk, value));
  const std::uint16_t at = register_of(cap::vital_product_data, VpdAddress::in_capability).value_or(0);
  const std::uint16_t data = register_of(cap::vital_product_data, VpdData::in_capability).value_or(0);
  if (at == 0 || data == 0 || !chunk.touches(at + 1u)) return {};
  const auto command = get<VpdAddress>(at);
  const auto address = command.get(VpdAddress::address);
  // On failure the flag stays as it was written, and the driver waits in vain.
  if (command.get(VpdAddress::flag) != 0) {
    if (!device_.write_vital_product_data(address, get(data, 4))) return {};
    set(at, 2, with(command, VpdAddress::flag, 0).value());
  } else if (const auto read = device_.read_vital_product_data(address)) {
    set(data, 4, *read);
    set(at, 2, with(command, VpdAddress::flag, 1).value());
  }
  return {};
}

}  // namespace outboard::pci
