#pragma once

#include <outboard/virtio/device_type.hpp>

namespace outboard::blk {

/// `blk`: a disk on an image file or block device, in memory, or without storage.
extern const virtio::DeviceType registration;

}  // namespace outboard::blk
