#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/pci/internal/silence.hpp>
#include <outboard/pci/registers.hpp>

/// What the library keeps of configuration space across a reset and across sleep. A real device behind VFIO has it restored
/// by the kernel, an emulated one loses it: a driver sees one contract, because what is different is written here.
namespace outboard::pci {

namespace {

struct BaseRegister : Register<std::uint32_t> {
  using Register::Register;
};

/// The places of SavedConfig::bases.
ConfigOffset base_offset(std::size_t index) { return base_register::offset_of(static_cast<unsigned>(index)); }

}  // namespace

Result<SavedConfig> Handle::save_config() {
  SavedConfig saved;
  OUTBOARD_TRY(const auto command, config().read<Command>());
  saved.command = command.value();
  // It does not answer: a reset may change that, and there is nothing to restore.
  if (silent(command)) return saved;
  for (std::size_t i = 0; i < saved.bases.size(); ++i) {
    OUTBOARD_TRY(const auto base, config().read_at<BaseRegister>(base_offset(i)));
    saved.bases[i] = base.value();
  }
  OUTBOARD_TRY(const auto capabilities, this->capabilities());
  for (const Capability& capability : capabilities) {
    if (capability.extended || (capability.id != capability_id::msi && capability.id != capability_id::msix)) continue;
    const ConfigOffset at = capability.offset + MsixControl::in_capability;
    OUTBOARD_TRY(const auto control, config().read_at<MsixControl>(at));
    saved.message_controls.push_back({.at = at, .value = control.value()});
  }
  return saved;
}

/// Writes what differs, decoding and bus mastering last.
Status Handle::restore_config(const SavedConfig& saved) {
  if (silent(Command(saved.command))) return {};
  for (std::size_t i = 0; i < saved.bases.size(); ++i) {
    OUTBOARD_TRY(const auto base, config().read_at<BaseRegister>(base_offset(i)));
    if (base.value() == saved.bases[i]) continue;
    OUTBOARD_CHECK(config().write_at(base_offset(i), BaseRegister(saved.bases[i])));
  }
  for (const auto& control : saved.message_controls) {
    OUTBOARD_TRY(const auto now, config().read_at<MsixControl>(control.at));
    if (now.value() == control.value) continue;
    OUTBOARD_CHECK(config().write_at(control.at, MsixControl(control.value)));
  }
  OUTBOARD_TRY(const auto command, config().read<Command>());
  if (silent(command)) return Error(ENODEV, "the function does not answer").on(name());
  if (command.value() == saved.command) return {};
  return config().write(Command(saved.command));
}

Status Handle::keep_config_across(const std::function<Status()>& interruption) {
  OUTBOARD_TRY(const SavedConfig saved, save_config());
  // Also when it did not take place: on the way there the function may have lost bus mastering.
  const Status done = interruption();
  const Status restored = restore_config(saved);
  return done ? restored : done;
}

// Sleep, where the back end has nothing better than the function's power management capability.

Status Handle::set_power_state(std::uint16_t state) {
  OUTBOARD_TRY(const auto capability, find_capability(capability_id::power_management));
  if (!capability) return Error(ENOTSUP, "the function has no power management").on(name());
  const ConfigOffset at = capability->offset + PowerManagementControl::in_capability;
  OUTBOARD_TRY(const auto control, config().read_at<PowerManagementControl>(at));
  return config().write_at(at, with(control, PowerManagementControl::power_state, state));
}

Status Handle::enter_low_power() {
  if (asleep_with_) return Error(EALREADY, "the function is in low power already").on(name());
  OUTBOARD_TRY(auto saved, save_config());
  OUTBOARD_CHECK(set_power_state(PowerManagementControl::d3hot));
  asleep_with_ = std::move(saved);
  raise(Event::low_power_entry);
  return {};
}

Status Handle::exit_low_power() {
  if (!asleep_with_) return {};
  OUTBOARD_CHECK(set_power_state(PowerManagementControl::d0));
  const SavedConfig saved = *std::exchange(asleep_with_, std::nullopt);
  OUTBOARD_CHECK(restore_config(saved));
  raise(Event::low_power_exit);
  return {};
}

}  // namespace outboard::pci
