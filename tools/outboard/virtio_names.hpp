#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <outboard/virtio/features.hpp>

namespace outboard::command {

/// "block device"; "device 63" where the number has no name here.
std::string virtio_device_name(std::uint32_t device_id);

/// The names of feature bits as the specification writes them, without VIRTIO_F_ and the like; "bit 77" where there is
/// none here.
std::vector<std::string> virtio_feature_names(std::uint32_t device_id, const virtio::Features& features);

/// "ACKNOWLEDGE DRIVER"; "none" for 0.
std::string virtio_status_text(std::uint8_t status);

}  // namespace outboard::command
