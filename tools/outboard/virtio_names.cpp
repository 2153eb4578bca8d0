#include <tools/outboard/virtio_names.hpp>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include <outboard/targets/device_table.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::command {

namespace {

struct Named {
  unsigned number;
  std::string_view name;
};

/// VIRTIO 1.4, chapter 5, as far as one meets them.
constexpr std::array<Named, 12> devices{{{1, "network device"},
                                         {2, "block device"},
                                         {3, "console"},
                                         {4, "entropy source"},
                                         {5, "memory balloon"},
                                         {8, "SCSI host"},
                                         {16, "GPU"},
                                         {18, "input device"},
                                         {19, "socket device"},
                                         {20, "crypto device"},
                                         {25, "sound device"},
                                         {26, "file system"}}};

/// VIRTIO 1.4, chapter 6.
constexpr std::array<Named, 13> common{{{28, "INDIRECT_DESC"},
                                        {29, "EVENT_IDX"},
                                        {32, "VERSION_1"},
                                        {33, "ACCESS_PLATFORM"},
                                        {34, "RING_PACKED"},
                                        {35, "IN_ORDER"},
                                        {36, "ORDER_PLATFORM"},
                                        {37, "SR_IOV"},
                                        {38, "NOTIFICATION_DATA"},
                                        {39, "NOTIF_CONFIG_DATA"},
                                        {40, "RING_RESET"},
                                        {41, "ADMIN_VQ"},
                                        {43, "SUSPEND"}}};

/// VIRTIO 1.4, 2.1.
constexpr std::array<std::pair<std::uint8_t, std::string_view>, 7> status_bits{
    {{virtio::spec::status::acknowledge, "ACKNOWLEDGE"},
     {virtio::spec::status::driver, "DRIVER"},
     {virtio::spec::status::features_ok, "FEATURES_OK"},
     {virtio::spec::status::driver_ok, "DRIVER_OK"},
     {virtio::spec::status::suspend, "SUSPEND"},
     {virtio::spec::status::needs_reset, "DEVICE_NEEDS_RESET"},
     {virtio::spec::status::failed, "FAILED"}}};

/// Those that this build can make know more about themselves.
const virtio::DeviceType* type_of(std::uint32_t device_id) {
  const auto table = targets::device_table();
  const auto found = std::ranges::find_if(
      table, [&](const auto& entry) { return entry.type != nullptr && entry.type->device_id == device_id; });
  return found != table.end() ? found->type : nullptr;
}

std::string feature_name(const virtio::DeviceType* type, virtio::Feature bit) {
  if (type != nullptr) {
    const auto found = std::ranges::find(type->features, bit, &virtio::FeatureName::bit);
    if (found != type->features.end()) return std::string(found->name);
  }
  return fmt::format("bit {}", static_cast<unsigned>(bit));
}

template <typename Table>
std::string name_in(const Table& table, unsigned number, std::string_view otherwise) {
  const auto found = std::ranges::find(table, number, &Named::number);
  return found != table.end() ? std::string(found->name) : fmt::format("{} {}", otherwise, number);
}

}  // namespace

std::string virtio_device_name(std::uint32_t device_id) {
  const virtio::DeviceType* type = type_of(device_id);
  const bool standard = std::ranges::find(devices, device_id, &Named::number) != devices.end();
  return type != nullptr && !standard ? fmt::format("{} device", type->name) : name_in(devices, device_id, "device");
}

std::vector<std::string> virtio_feature_names(std::uint32_t device_id, const virtio::Features& features) {
  static constexpr unsigned first_common = 24, last_common = 49;
  const virtio::DeviceType* type = type_of(device_id);
  std::vector<std::string> names;
  for (unsigned bit = 0; bit < virtio::Features::count; ++bit) {
    if (!features.has(static_cast<virtio::Feature>(bit))) continue;
    const bool reserved = bit >= first_common && bit <= last_common;
    names.push_back(reserved ? name_in(common, bit, "bit") : feature_name(type, static_cast<virtio::Feature>(bit)));
  }
  return names;
}

std::string virtio_status_text(std::uint8_t status) {
  std::string text;
  for (const auto& [bit, name] : status_bits) {
    if ((status & bit) != 0) text += fmt::format("{}{}", text.empty() ? "" : " ", name);
  }
  return text.empty() ? "none" : text;
}

}  // namespace outboard::command
