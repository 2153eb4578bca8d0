#pragma once

#include <outboard/virtio/device_type.hpp>

namespace outboard::example {

/// `example`: adds one to a number, perhaps up to a limit.
extern const virtio::DeviceType registration;

}  // namespace outboard::example
