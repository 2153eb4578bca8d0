#include <outboard/devices/example/registration.hpp>

#include <array>
#include <bit>
#include <limits>

#include <fmt/format.h>

#include <outboard/devices/example/device.hpp>

namespace outboard::example {

namespace {

constexpr std::uint64_t max_value = std::numeric_limits<std::uint32_t>::max();

constexpr std::array option_table = {
    OptionHelp{"limit", "N", "refuse larger values (offers LIMIT)"},
    OptionHelp{"limit-file", "FILE", "read the limit from FILE, again on SIGHUP (offers LIMIT)"},
    OptionHelp{"queue-size", "N", "entries of a queue, a power of two (default 64)"},
    OptionHelp{"break-on", "N", "break at this value, to test a driver"},
};

constexpr std::array feature_names = {virtio::FeatureName{feature::limit, "LIMIT"}};

Result<std::optional<std::uint32_t>> value_of(OptionSet& set, std::string_view name) {
  if (!set.has(name)) return std::nullopt;
  OUTBOARD_TRY(const auto value, set.number(name, 0, 0, max_value));
  return static_cast<std::uint32_t>(value);
}

/// Checks what the device would refuse, so that the error names the option as typed.
Status check(const OptionSet& set, const Device::Options& options) {
  if (options.limit && !options.limit_file.empty())
    return Error(EINVAL, "they are mutually exclusive")
        .on(fmt::format("{}, {}", set.typed("limit"), set.typed("limit-file")))
        .cure("leave one of them out");
  if (!std::has_single_bit(options.queue_size))
    return Error(EINVAL, fmt::format("{} is not a power of two", options.queue_size)).on(set.typed("queue-size"));
  return {};
}

Result<std::unique_ptr<virtio::Device>> make(OptionSet& set, Loop& /*loop*/, const Log& /*log*/) {
  Device::Options options;
  OUTBOARD_TRY(options.limit, value_of(set, "limit"));
  OUTBOARD_TRY(options.limit_file, set.text("limit-file", ""));
  OUTBOARD_TRY(const auto queue_size, set.number("queue-size", 64, 4, 32768));
  options.queue_size = static_cast<std::uint16_t>(queue_size);
  OUTBOARD_TRY(options.break_on, value_of(set, "break-on"));
  OUTBOARD_CHECK(check(set, options));
  OUTBOARD_CHECK(set.finish(option_table));
  OUTBOARD_TRY(std::unique_ptr<virtio::Device> device, Device::create(options));
  return device;
}

}  // namespace

constinit const virtio::DeviceType registration{.name = "example",
                                                .summary = "adds one to a number: the template for new devices",
                                                .options = option_table,
                                                .device_id = device_id,
                                                .features = feature_names,
                                                .make = make};

}  // namespace outboard::example
