#pragma once

#include <outboard/virtio/device_type.hpp>

namespace outboard::blk {

/// `blk`: a disk, from an image file or block device, memory or nothing.
extern const virtio::DeviceType registration;

}  // namespace outboard::blk
