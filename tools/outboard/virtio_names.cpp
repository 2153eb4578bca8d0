#include <tools/outboard/virtio_names.hpp>

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include <outboard/devices/example/layout.hpp>
#include <outboard/targets/device_table.hpp>
#include <outboard/virtio/device_ids.hpp>
#include <outboard/virtio/names.hpp>

namespace outboard::command {

namespace {

namespace id = virtio::device_id;

/// VIRTIO 1.4, chapter 5, as far as one meets them.
constexpr VirtioTypeName type_names[] = {
    {id::net, "network device", "network device"},
    {id::blk, "block device", "block device"},
    {id::console, "console", "console"},
    {id::entropy, "entropy source", "RNG"},
    {id::balloon, "memory balloon", "memory balloon"},
    {id::scsi, "SCSI host", "SCSI"},
    {id::p9, "", "filesystem"},
    {id::gpu, "GPU", "GPU"},
    {id::input, "input device", "input"},
    {id::socket, "socket device", "socket"},
    {id::crypto, "crypto device", "crypto device"},
    {id::iommu, "", "IOMMU"},
    {id::memory, "", "memory device"},
    {id::sound, "sound device", "sound device"},
    {id::fs, "file system", ""},
    {example::device_id, "", "example device"},
};

/// Those that this build can make know more about themselves.
const virtio::DeviceType* type_of(std::uint32_t device_id) {
  const auto table = targets::device_table();
  const auto found = std::ranges::find_if(
      table, [&](const auto& entry) { return entry.type != nullptr && entry.type->device_id == device_id; });
  return found != table.end() ? found->type : nullptr;
}

std::string feature_name(std::span<const virtio::FeatureName> names, virtio::Feature bit) {
  const auto found = std::ranges::find(names, bit, &virtio::FeatureName::bit);
  return found != names.end() ? std::string(found->name) : fmt::format("bit {}", static_cast<unsigned>(bit));
}

}  // namespace

std::span<const VirtioTypeName> virtio_type_names() { return type_names; }

std::string virtio_device_name(std::uint32_t device_id) {
  const auto* standard = std::ranges::find(type_names, device_id, &VirtioTypeName::device_id);
  if (standard != std::end(type_names) && !standard->name.empty()) return std::string(standard->name);
  const virtio::DeviceType* type = type_of(device_id);
  return type != nullptr ? fmt::format("{} device", type->name) : fmt::format("device {}", device_id);
}

std::vector<std::string> virtio_feature_names(std::uint32_t device_id, const virtio::Features& features) {
  static constexpr unsigned first_reserved = 24, last_reserved = 49;
  const virtio::DeviceType* type = type_of(device_id);
  const std::span<const virtio::FeatureName> own =
      type != nullptr ? type->features : std::span<const virtio::FeatureName>();
  std::vector<std::string> names;
  for (unsigned bit = 0; bit < virtio::Features::count; ++bit) {
    const auto feature = static_cast<virtio::Feature>(bit);
    if (!features.has(feature)) continue;
    const bool reserved = bit >= first_reserved && bit <= last_reserved;
    names.push_back(feature_name(reserved ? virtio::reserved_feature_names : own, feature));
  }
  return names;
}

std::string virtio_status_text(std::uint8_t status) {
  std::string text;
  for (const auto& [bit, name] : virtio::status_names) {
    if ((status & bit) != 0) text += fmt::format("{}{}", text.empty() ? "" : " ", name);
  }
  return text.empty() ? "none" : text;
}

}  // namespace outboard::command
