#include <outboard/virtio/transport.hpp>

#include <fmt/format.h>

#include <outboard/virtio/spec.hpp>

namespace outboard::virtio {

namespace {

namespace status = spec::status;

std::string text(const Features& features) {
  return fmt::format("{:08x}'{:08x}'{:08x}'{:08x}", features.word(3), features.word(2), features.word(1),
                     features.word(0));
}

/// What of `wanted` can be agreed on with a device that offers `offered`.
Features choose(const Features& wanted, const Features& offered, std::span<const FeatureDependency> dependencies) {
  Features chosen =
      (wanted | Features{Feature::version_1, Feature::access_platform, Feature::order_platform}) & offered;
  // Our queues ring with the index, not with a cookie of the device's.
  chosen.clear(Feature::notif_config_data);
  // VIRTIO 1.4, 2.2.1: "The driver MUST NOT accept a feature which requires another feature which was not accepted."
  // Each pass drops at least one bit or is the last.
  for (bool changed = true; changed;) {
    changed = false;
    for (const auto& [feature, needs] : dependencies) {
      if (!chosen.has(feature) || chosen.has(needs)) continue;
      chosen.clear(feature);
      changed = true;
    }
  }
  return chosen;
}

Result<Features> agree(Transport& transport, const Features& wanted, std::span<const FeatureDependency> dependencies) {
  constexpr std::uint8_t started = status::acknowledge | status::driver;
  OUTBOARD_CHECK(transport.reset());
  OUTBOARD_CHECK(transport.write_status(status::acknowledge));
  OUTBOARD_CHECK(transport.write_status(started));
  OUTBOARD_TRY(const Features offered, transport.device_features());
  // VIRTIO 1.4, 6.1: "A driver MUST accept VIRTIO_F_VERSION_1 if it is offered"; without it the device is of an older
  // kind that nothing here speaks.
  if (!offered.has(Feature::version_1))
    return Error(ENODEV, "not a VIRTIO 1.x device: it does not offer VERSION_1").on(transport.name());
  const Features chosen = choose(wanted, offered, dependencies);
  OUTBOARD_CHECK(transport.write_driver_features(chosen));
  OUTBOARD_CHECK(transport.write_status(started | status::features_ok));
  OUTBOARD_TRY(const std::uint8_t now, transport.status());
  // 3.1.1, step 6: "Re-read device status to ensure the FEATURES_OK bit is still set".
  if ((now & status::features_ok) == 0)
    return Error(EPROTO,
                 fmt::format("the device refused features {} of the {} that it offers", text(chosen), text(offered)))
        .on(transport.name());
  return chosen;
}

}  // namespace

Result<Features> negotiate(Transport& transport, const Features& wanted,
                           std::span<const FeatureDependency> dependencies) {
  auto agreed = agree(transport, wanted, dependencies);
  if (!agreed) {
    // VIRTIO 1.4, 3.1.1: "If any of these steps go irrecoverably wrong, the driver SHOULD set the FAILED status bit".
    // Where even that fails the first error says more.
    [[maybe_unused]] const auto told = transport.write_status(status::acknowledge | status::driver | status::failed);
  }
  return agreed;
}

Status start_device(Transport& transport) {
  constexpr std::uint8_t live = status::acknowledge | status::driver | status::features_ok | status::driver_ok;
  OUTBOARD_CHECK(transport.write_status(live));
  OUTBOARD_TRY(const std::uint8_t now, transport.status());
  if ((now & status::needs_reset) != 0)
    return Error(EIO, "the device needs a reset as soon as it is started").on(transport.name());
  if ((now & status::driver_ok) == 0)
    return Error(EIO, fmt::format("the device did not take DRIVER_OK: status {:#04x}", now)).on(transport.name());
  return {};
}

}  // namespace outboard::virtio
