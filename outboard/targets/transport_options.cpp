#include <outboard/targets/transport_options.hpp>

#include <algorithm>
#include <array>
#include <string_view>

namespace outboard::targets {

namespace {

constexpr std::array<OptionHelp, 7> transport_table{{
    {"packed", "", "offer packed rings (VIRTIO_F_RING_PACKED)"},
    {"in-order", "", "offer to use buffers in order (VIRTIO_F_IN_ORDER)"},
    {"iommu-platform", "MODE",
     "VIRTIO_F_ACCESS_PLATFORM: on (offer it), off (do not), or require (refuse a driver that does not accept it); "
     "default on, with VDUSE require"},
    {"vectors", "N", "entries of the MSI-X table (default: one for each queue and one more)"},
    {"error-interrupt", "",
     "raise the ERR interrupt when the device needs a reset (QEMU then stops the virtual machine)"},
    {"poll", "", "busy-poll the rings, and put the doorbells into shared memory"},
    {"spin", "USEC", "busy-poll for so many microseconds before sleeping (default 0)"},
}};

constexpr std::array<std::string_view, 2> pci_options{"vectors", "error-interrupt"};

constexpr std::array<OptionHelp, 1> function_table{{transport_table.back()}};

constexpr std::uint64_t max_spin_us = 1'000'000;

Status take_iommu_platform(OptionSet& set, virtio::DeviceCore::Options& core) {
  static constexpr std::array<std::string_view, 3> choices{"off", "on", "require"};
  OUTBOARD_TRY(const auto chosen, set.choice("iommu-platform", choices, "on"));
  core.access_platform = chosen == "off"  ? virtio::AccessPlatform::off
                         : chosen == "on" ? virtio::AccessPlatform::on
                                          : virtio::AccessPlatform::require;
  return {};
}

}  // namespace

Result<Duration> take_spin(OptionSet& set) {
  OUTBOARD_TRY(const auto microseconds, set.number("spin", 0, 0, max_spin_us));
  set.take("spin");
  return std::chrono::microseconds(microseconds);
}

std::span<const OptionHelp> transport_options() { return transport_table; }
std::span<const OptionHelp> function_options() { return function_table; }

bool is_pci_option(std::string_view name) { return std::ranges::find(pci_options, name) != pci_options.end(); }

Status take_core_options(OptionSet& set, virtio::DeviceCore::Options& core, Duration& spin) {
  OUTBOARD_TRY(core.packed, set.flag("packed", false));
  OUTBOARD_TRY(core.in_order, set.flag("in-order", false));
  OUTBOARD_TRY(core.poll, set.flag("poll", false));
  OUTBOARD_CHECK(take_iommu_platform(set, core));
  OUTBOARD_TRY(spin, take_spin(set));
  for (const std::string_view name : {"packed", "in-order", "poll", "iommu-platform"}) set.take(name);
  return {};
}

Result<TransportOptions> take_transport_options(OptionSet& set) {
  TransportOptions options;
  OUTBOARD_CHECK(take_core_options(set, options.function.core, options.spin));
  OUTBOARD_TRY(const auto vectors, set.number("vectors", 0, 2, virtio_pci::spec::max_vectors));
  options.function.vectors = static_cast<unsigned>(vectors);
  options.function.shared_doorbells = options.function.core.poll;
  OUTBOARD_TRY(options.function.error_interrupt, set.flag("error-interrupt", false));
  for (const std::string_view name : pci_options) set.take(name);
  return options;
}

Result<FunctionPlan> plan_function(const virtio::DeviceType& type, OptionSet set) {
  OUTBOARD_CHECK(set.check_known({type.options, transport_table}));
  OUTBOARD_TRY(auto transport, take_transport_options(set));
  const auto description = std::make_shared<std::string>();
  const auto made = std::make_shared<virtio::Device*>(nullptr);
  auto make = [&type, set = std::move(set), description, made](
                  Loop& loop, const Log& log) mutable -> Result<std::unique_ptr<virtio::Device>> {
    auto device = type.make(set, loop, log);
    if (!device) return device;
    *description = (*device)->description();
    *made = device->get();
    return device;
  };
  return FunctionPlan{virtio_pci::Function::factory(std::move(make), std::move(transport.function)), transport.spin,
                      description, [made] { return (*made)->reload(); }};
}

Result<FunctionPlan> plan_function(const pci::FunctionType& type, OptionSet set) {
  OUTBOARD_CHECK(set.check_known({type.options, function_table}));
  OUTBOARD_TRY(const Duration spin, take_spin(set));
  const auto made = std::make_shared<pci::FunctionType::Made>();
  const std::shared_ptr<const std::string> description(made, &made->description);
  auto make = [&type, set = std::move(set), made](Loop& loop,
                                                  const Log& log) mutable -> Result<std::unique_ptr<pci::Function>> {
    auto function = type.make(set, loop, log);
    if (!function) return function.error();
    *made = std::move(*function);
    return std::move(made->function);
  };
  return FunctionPlan{std::move(make), spin, description, [made] { return made->reload ? made->reload() : Status(); }};
}

Result<FunctionPlan> plan_function(const DeviceEntry& entry, OptionSet set) {
  return entry.type != nullptr ? plan_function(*entry.type, std::move(set))
                               : plan_function(*entry.function, std::move(set));
}

}  // namespace outboard::targets
