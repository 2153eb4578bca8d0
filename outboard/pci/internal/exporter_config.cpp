#include <outboard/pci/internal/exporter_config.hpp>

#include <algorithm>
#include <bit>
#include <utility>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/express_registers.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {

namespace {

namespace cap = capability_id;

}  // namespace

ExporterConfig::ExporterConfig(std::unique_ptr<HandleConfig> hardware, Bytes image, bool intx)
    : ConfigOverlay(*hardware, ConfigPolicy::exporter, image), hardware_(std::move(hardware)), intx_(intx) {}

Result<std::unique_ptr<ExporterConfig>> ExporterConfig::create(Handle& handle) {
  OUTBOARD_TRY(const RegionInfo space, handle.region(region::config));
  if (space.size < config_size::conventional)
    return Error(EPROTO, "the function has too little configuration space").on(handle.name());
  std::vector<std::byte> image(std::min<std::uint64_t>(space.size, config_size::express));
  OUTBOARD_CHECK(handle.read_region(region::config, 0, image));
  OUTBOARD_TRY(const InterruptInfo intx, handle.interrupts(InterruptKind::intx));
  std::unique_ptr<ExporterConfig> config(
      new ExporterConfig(std::make_unique<HandleConfig>(handle), image, intx.count != 0));
  if (config->get<VendorId>(raw(VendorId::offset)).value() == VendorId::absent)
    return Error(ENODEV, "the function does not answer").on(handle.name());
  OUTBOARD_CHECK(config->find_bases());
  OUTBOARD_CHECK(config->power_on());
  return config;
}

Status ExporterConfig::find_bases() {
  for (unsigned index = 0; index < base_register::count; ++index) {
    OUTBOARD_TRY(const RegionInfo region, hardware_->handle.region(index));
    if (region.size == 0) continue;
    // What is smaller than it says in the register would be mapped over something else.
    if (!std::has_single_bit(region.size))
      return Error(EPROTO, "the size of a BAR is no power of two").on(hardware_->handle.name());
    set_base_address(index, region.size);
  }
  return {};
}

bool ExporterConfig::msi_maskable() const {
  const auto at = register_of(cap::msi, MsiControl::in_capability);
  return at && get<MsiControl>(*at).get(MsiControl::per_vector_masking) != 0;
}

template <typename F>
Status ExporterConfig::for_each_register(F what) {
  for (std::size_t at = 0; at < size();) {
    const Chunk chunk = chunk_at(at, 4);
    OUTBOARD_CHECK(what(chunk, map().at(at)));
    at += chunk.size;
  }
  return {};
}

Status ExporterConfig::wake() {
  using Control = PowerManagementControl;
  return for_each_register([this](Chunk chunk, const ConfigMap::Byte& byte) -> Status {
    const auto at = register_beside(chunk, Control::in_capability);
    if (byte.action != ConfigAction::power_state || at != chunk.at) return {};
    OUTBOARD_TRY(const std::uint32_t now, hardware_read(*at, 2));
    const Control control(static_cast<std::uint16_t>(now));
    if (control.get(Control::power_state) == Control::d0) return {};
    return hardware_write(*at, 2, with(control, Control::power_state, Control::d0).value());
  });
}

/// A reset does not do it: there may be none, some registers keep their bits through it, and the kernel restores others.
Status ExporterConfig::restore_device() {
  // On its way to D0 a device may forget the rest.
  OUTBOARD_CHECK(wake());
  return for_each_register([this](Chunk chunk, const ConfigMap::Byte& byte) -> Status {
    const bool own = byte.action == ConfigAction::command || byte.action == ConfigAction::power_state;
    // Writing to the address of vital product data begins a transfer.
    const bool transfer =
        byte.owner != ConfigMap::gap_owner &&
        map().structures()[byte.owner].structure == ConfigStructure{ConfigPart::capability, cap::vital_product_data};
    return own || transfer ? Status() : restore_hardware(chunk);
  });
}

Status ExporterConfig::power_on() {
  restore_initial();
  for (unsigned index = 0; index < base_register::count; ++index) set(raw(base_register::offset_of(index)), 4, 0);
  settle_base_addresses();
  set(raw(HeaderType::offset), 1, 0);
  set(raw(InterruptLine::offset), 1, 0);
  if (!intx_) set(raw(InterruptPin::offset), 1, InterruptPin::none);
  for (const std::uint8_t capability : {cap::msi, cap::msix}) {
    const auto at = register_of(capability, MsixControl::in_capability);
    const std::uint32_t kept = capability == cap::msi
                                   ? ~mask_of(MsiControl::enable, MsiControl::multiple_message_enable)
                                   : mask_of(MsixControl::table_size);
    if (at) set(*at, 2, get(*at, 2) & kept);
  }
  awake_ = true;
  command_ = 0;
  const Status restored = restore_device();
  const Status sent = send_command(0);
  return restored ? sent : restored;
}

Status ExporterConfig::allow_bus_master(bool allowed) {
  if (allowed_ == allowed) return {};
  const bool before = std::exchange(allowed_, allowed);
  if ((command_ & Command::bus_master.mask) == 0) return {};
  Status sent = send_command(command_);
  // What the device was not told is told again when it is asked for again.
  if (!sent) allowed_ = before;
  return sent;
}

Status ExporterConfig::write_chunk(Chunk chunk, std::uint32_t value) {
  switch (map().at(chunk.at).action) {
    case ConfigAction::command:
      return write_command(chunk, value);
    case ConfigAction::power_state:
      return write_power_state(chunk, value);
    case ConfigAction::device_control:
      return write_device_control(chunk, value);
    case ConfigAction::advanced_features:
      return write_advanced_features(chunk, value);
    case ConfigAction::base_address:
      OUTBOARD_CHECK(ConfigOverlay::write_chunk(chunk, value));
      settle_base_addresses();
      return {};
    case ConfigAction::msi_control:
      OUTBOARD_CHECK(ConfigOverlay::write_chunk(chunk, value));
      clamp_msi(chunk);
      return {};
    case ConfigAction::none:
    case ConfigAction::vital_product_data:
    case ConfigAction::msix_control:
      break;
  }
  return ConfigOverlay::write_chunk(chunk, value);
}

/// The register as it is to be when a part of it has been written.
Result<std::uint32_t> ExporterConfig::written_register(Chunk chunk, std::uint32_t value, std::uint16_t at,
                                                       unsigned width) {
  if (chunk.size == width) return value;
  OUTBOARD_TRY(const std::uint32_t now, hardware_read(at, width));
  const unsigned shift = 8u * (chunk.at - at);
  const std::uint32_t mask = ((UINT32_C(1) << (8 * chunk.size)) - 1) << shift;
  return (now & ~mask) | (value << shift & mask);
}

// Command. Always written as 16 bits: the other half of its dword has bits that a one clears.

Status ExporterConfig::write_command(Chunk chunk, std::uint32_t value) {
  const std::uint16_t at = raw(Command::offset);
  // Bus mastering in the device may be held back: what the client has asked for counts.
  OUTBOARD_TRY(std::uint32_t wanted, written_register(chunk, value, at, 2));
  if (!chunk.touches(at)) wanted = (wanted & ~Command::bus_master.mask) | (command_ & Command::bus_master.mask);
  command_ = static_cast<std::uint16_t>(wanted);
  return send_command(command_);
}

Status ExporterConfig::send_command(std::uint16_t command) {
  set(raw(Command::offset), 2, command);
  memory_ = (command & Command::memory_space.mask) != 0;
  io_ = (command & Command::io_space.mask) != 0;
  const auto held_back = static_cast<std::uint32_t>(allowed_ ? 0 : Command::bus_master.mask);
  return hardware_write(raw(Command::offset), 2, command & ~held_back);
}

// Registers that reset the function. The device stops its DMA first; whoever writes waits until it is done.

Status ExporterConfig::write_power_state(Chunk chunk, std::uint32_t value) {
  using Control = PowerManagementControl;
  const auto at = register_beside(chunk, Control::in_capability);
  if (!at) return {};
  OUTBOARD_TRY(const std::uint32_t before, hardware_read(*at, 2));
  OUTBOARD_CHECK(ConfigOverlay::write_chunk(chunk, value));
  OUTBOARD_TRY(const std::uint32_t after, hardware_read(*at, 2));
  const Control old_control(static_cast<std::uint16_t>(before)), now(static_cast<std::uint16_t>(after));
  awake_ = now.get(Control::power_state) == Control::d0;
  const bool awakes = awake_ && old_control.get(Control::power_state) == Control::d3hot;
  return awakes && old_control.get(Control::no_soft_reset) == 0 ? restart() : Status();
}

Status ExporterConfig::write_device_control(Chunk chunk, std::uint32_t value) {
  const auto at = register_beside(chunk, DeviceControl::in_capability);
  const auto capabilities = register_beside(chunk, DeviceCapabilities::in_capability);
  if (!at || !capabilities) return {};
  OUTBOARD_TRY(const std::uint32_t wanted, written_register(chunk, value, *at, 2));
  OUTBOARD_CHECK(ConfigOverlay::write_chunk(chunk, value));
  const DeviceControl control(static_cast<std::uint16_t>(wanted));
  if (!chunk.touches(*at + 1u) || control.get(DeviceControl::initiate_function_level_reset) == 0) return {};
  OUTBOARD_TRY(const std::uint32_t offered, hardware_read(*capabilities, 4));
  if (DeviceCapabilities(offered).get(DeviceCapabilities::function_level_reset) == 0) return {};
  OUTBOARD_CHECK(send_command(static_cast<std::uint16_t>(command_ & ~Command::bus_master.mask)));
  OUTBOARD_CHECK(hardware_write(*at, 2, wanted));
  return restart();
}

Status ExporterConfig::write_advanced_features(Chunk chunk, std::uint32_t value) {
  const auto at = register_beside(chunk, AdvancedFeaturesControl::in_capability);
  if (!at || (value & AdvancedFeaturesControl::initiate_function_level_reset.mask) == 0) return {};
  OUTBOARD_CHECK(send_command(static_cast<std::uint16_t>(command_ & ~Command::bus_master.mask)));
  OUTBOARD_CHECK(hardware_write(*at, 1, mask_of(AdvancedFeaturesControl::initiate_function_level_reset)));
  return restart();
}

Status ExporterConfig::restart() {
  OUTBOARD_CHECK(power_on());
  if (restarted_) restarted_();
  return {};
}

void ExporterConfig::clamp_msi(Chunk chunk) {
  const auto at = register_beside(chunk, MsiControl::in_capability);
  if (!at) return;
  const auto control = get<MsiControl>(*at);
  const auto offered = control.get(MsiControl::multiple_message_capable);
  const auto wanted = control.get(MsiControl::multiple_message_enable);
  set(*at, 2, with(control, MsiControl::multiple_message_enable, std::min(offered, wanted)).value());
}

}  // namespace outboard::pci
