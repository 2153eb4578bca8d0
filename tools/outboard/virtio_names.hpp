#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <outboard/virtio/features.hpp>

namespace outboard::command {

/// The names of a device type.
struct VirtioTypeName {
  std::uint32_t device_id;
  std::string_view name;        ///< in the specification; empty: unknown
  std::string_view in_pci_ids;  ///< in pci.ids, after "Virtio 1.0"; empty: unknown
};
std::span<const VirtioTypeName> virtio_type_names();

/// "block device", or "device 63" for an unknown number.
std::string virtio_device_name(std::uint32_t device_id);

/// The names of feature bits in the specification, without VIRTIO_F_ and the like, or "bit 77" for an unknown
/// one.
std::vector<std::string> virtio_feature_names(std::uint32_t device_id, const virtio::Features& features);

/// "ACKNOWLEDGE DRIVER"; "none" for 0.
std::string virtio_status_text(std::uint8_t status);

}  // namespace outboard::command
