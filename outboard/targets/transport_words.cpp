#include <outboard/targets/transport_words.hpp>

#include <algorithm>
#include <array>
#include <string_view>

namespace outboard::targets {

namespace {

constexpr std::array<OptionHelp, 7> words_of_transport{{
    {"packed", "", "offer packed rings"},
    {"in-order", "", "offer to use buffers in order"},
    {"iommu-platform", "WHICH",
     "ACCESS_PLATFORM: on (offered), off (not offered), or require: refuse a driver that does not accept it (on; VDUSE: "
     "require)"},
    {"vectors", "N", "entries of the MSI-X table (default: one for each queue and one more)"},
    {"error-interrupt", "", "raise ERR when the device breaks and needs a reset: QEMU stops the virtual machine then"},
    {"poll", "", "never sleep: look at the rings all the time, with doorbells in shared memory"},
    {"spin", "USEC", "look for work for so long before sleeping (microseconds)"},
}};

constexpr std::array<std::string_view, 2> pci_words{"vectors", "error-interrupt"};

constexpr std::array<OptionHelp, 1> words_of_function{{words_of_transport.back()}};

constexpr std::uint64_t max_spin_us = 1'000'000;

Status take_iommu_platform(OptionSet& words, virtio::DeviceCore::Options& core) {
  static constexpr std::array<std::string_view, 3> choices{"off", "on", "require"};
  OUTBOARD_TRY(const auto chosen, words.choice("iommu-platform", choices, "on"));
  core.access_platform = chosen == "off"  ? virtio::AccessPlatform::off
                         : chosen == "on" ? virtio::AccessPlatform::on
                                          : virtio::AccessPlatform::require;
  return {};
}

Result<Duration> take_spin(OptionSet& words) {
  OUTBOARD_TRY(const auto microseconds, words.number("spin", 0, 0, max_spin_us));
  words.take("spin");
  return std::chrono::microseconds(microseconds);
}

}  // namespace

std::span<const OptionHelp> transport_words() { return words_of_transport; }
std::span<const OptionHelp> function_words() { return words_of_function; }

bool is_pci_word(std::string_view name) { return std::ranges::find(pci_words, name) != pci_words.end(); }

/// An unknown word is as likely a misspelt one of ours: list them too.
Error with_known_words(const Error& error, std::span<const OptionHelp> ours) {
  if (!error.cure().starts_with("it takes")) return error;
  std::string cure = error.cure();
  for (const auto& word : ours) cure += ", " + std::string(word.name);
  return Error(error).cure(std::move(cure));
}

Status take_core_words(OptionSet& words, virtio::DeviceCore::Options& core, Duration& spin) {
  OUTBOARD_TRY(core.packed, words.flag("packed", false));
  OUTBOARD_TRY(core.in_order, words.flag("in-order", false));
  OUTBOARD_TRY(core.poll, words.flag("poll", false));
  OUTBOARD_CHECK(take_iommu_platform(words, core));
  OUTBOARD_TRY(spin, take_spin(words));
  for (const std::string_view word : {"packed", "in-order", "poll", "iommu-platform"}) words.take(word);
  return {};
}

Result<TransportOptions> take_transport_words(OptionSet& words) {
  TransportOptions options;
  OUTBOARD_CHECK(take_core_words(words, options.function.core, options.spin));
  OUTBOARD_TRY(const auto vectors, words.number("vectors", 0, 2, virtio_pci::spec::max_vectors));
  options.function.vectors = static_cast<unsigned>(vectors);
  options.function.shared_doorbells = options.function.core.poll;
  OUTBOARD_TRY(options.function.error_interrupt, words.flag("error-interrupt", false));
  for (const std::string_view word : pci_words) words.take(word);
  return options;
}

Result<FunctionPlan> plan_function(const virtio::DeviceType& type, OptionSet words) {
  OUTBOARD_TRY(auto transport, take_transport_words(words));
  const auto description = std::make_shared<std::string>();
  const auto made = std::make_shared<virtio::Device*>(nullptr);
  auto make = [&type, words = std::move(words), description, made](
                  Loop& loop, const Log& log) mutable -> Result<std::unique_ptr<virtio::Device>> {
    auto device = type.make(words, loop, log);
    if (!device) return with_known_words(device.error(), words_of_transport);
    *description = (*device)->description();
    *made = device->get();
    return device;
  };
  return FunctionPlan{virtio_pci::Function::factory(std::move(make), std::move(transport.function)), transport.spin,
                      description, [made] { return (*made)->reload(); }};
}

Result<FunctionPlan> plan_function(const pci::FunctionType& type, OptionSet words) {
  OUTBOARD_TRY(const Duration spin, take_spin(words));
  const auto made = std::make_shared<pci::FunctionType::Made>();
  const std::shared_ptr<const std::string> description(made, &made->description);
  auto make = [&type, words = std::move(words), made](
                  Loop& loop, const Log& log) mutable -> Result<std::unique_ptr<pci::Function>> {
    auto function = type.make(words, loop, log);
    if (!function) return with_known_words(function.error(), words_of_function);
    *made = std::move(*function);
    return std::move(made->function);
  };
  return FunctionPlan{std::move(make), spin, description, [made] { return made->reload ? made->reload() : Status(); }};
}

Result<FunctionPlan> plan_function(const DeviceEntry& entry, OptionSet words) {
  return entry.type != nullptr ? plan_function(*entry.type, std::move(words))
                               : plan_function(*entry.function, std::move(words));
}

}  // namespace outboard::targets
