#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include <outboard/virtio/features.hpp>
#include <outboard/virtio/spec.hpp>

/// What VIRTIO 1.4 calls bits, for those who show them.
namespace outboard::virtio {

/// What the specification calls a feature bit, without its prefix: "FLUSH".
struct FeatureName {
  Feature bit;
  std::string_view name;  ///< without VIRTIO_F_, VIRTIO_<TYPE>_F_ and the like
  std::string_view option{};  ///< the option of the device that alone decides whether it is offered, if there is one
};

/// 6 Reserved Feature Bits: those of every device type.
inline constexpr std::array<FeatureName, 13> reserved_feature_names{{
    {Feature::indirect_desc, "INDIRECT_DESC"},
    {Feature::event_idx, "EVENT_IDX"},
    {Feature::version_1, "VERSION_1"},
    {Feature::access_platform, "ACCESS_PLATFORM"},
    {Feature::ring_packed, "RING_PACKED"},
    {Feature::in_order, "IN_ORDER"},
    {Feature::order_platform, "ORDER_PLATFORM"},
    {Feature::sr_iov, "SR_IOV"},
    {Feature::notification_data, "NOTIFICATION_DATA"},
    {Feature::notif_config_data, "NOTIF_CONFIG_DATA"},
    {Feature::ring_reset, "RING_RESET"},
    {Feature::admin_vq, "ADMIN_VQ"},
    {Feature::suspend, "SUSPEND"},
}};

/// A bit of the device status, without VIRTIO_CONFIG_S_.
struct StatusName {
  std::uint8_t bit;
  std::string_view name;
};

/// 2.1 Device Status Field, in the order in which a driver sets them.
inline constexpr std::array<StatusName, 7> status_names{{
    {spec::status::acknowledge, "ACKNOWLEDGE"},
    {spec::status::driver, "DRIVER"},
    {spec::status::features_ok, "FEATURES_OK"},
    {spec::status::driver_ok, "DRIVER_OK"},
    {spec::status::suspend, "SUSPEND"},
    {spec::status::needs_reset, "DEVICE_NEEDS_RESET"},
    {spec::status::failed, "FAILED"},
}};

}  // namespace outboard::virtio
