#include <tools/outboard/virtio_names.hpp>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include <outboard/devices/blk/layout.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::command {

namespace {

struct Named {
  unsigned number;
  std::string_view name;
};

/// VIRTIO 1.4, chapter 5.
constexpr std::array<Named, 13> devices{{{1, "network device"},
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
                                         {26, "file system"},
                                         {63, "example device"}}};

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

/// VIRTIO 1.4, 5.2.3.
constexpr std::array<Named, 14> blk_features{{{1, "SIZE_MAX"},
                                              {2, "SEG_MAX"},
                                              {4, "GEOMETRY"},
                                              {5, "RO"},
                                              {6, "BLK_SIZE"},
                                              {9, "FLUSH"},
                                              {10, "TOPOLOGY"},
                                              {11, "CONFIG_WCE"},
                                              {12, "MQ"},
                                              {13, "DISCARD"},
                                              {14, "WRITE_ZEROES"},
                                              {15, "LIFETIME"},
                                              {16, "SECURE_ERASE"},
                                              {17, "ZONED"}}};

/// VIRTIO 1.4, 2.1.
constexpr std::array<std::pair<std::uint8_t, std::string_view>, 7> status_bits{
    {{virtio::spec::status::acknowledge, "ACKNOWLEDGE"},
     {virtio::spec::status::driver, "DRIVER"},
     {virtio::spec::status::features_ok, "FEATURES_OK"},
     {virtio::spec::status::driver_ok, "DRIVER_OK"},
     {virtio::spec::status::suspend, "SUSPEND"},
     {virtio::spec::status::needs_reset, "DEVICE_NEEDS_RESET"},
     {virtio::spec::status::failed, "FAILED"}}};

template <typename Table>
std::string name_in(const Table& table, unsigned number, std::string_view otherwise) {
  const auto found = std::ranges::find(table, number, &Named::number);
  return found != table.end() ? std::string(found->name) : fmt::format("{} {}", otherwise, number);
}

}  // namespace

std::string virtio_device_name(std::uint32_t device_id) { return name_in(devices, device_id, "device"); }

std::vector<std::string> virtio_feature_names(std::uint32_t device_id, const virtio::Features& features) {
  static constexpr unsigned first_common = 24, last_common = 49;
  std::vector<std::string> names;
  for (unsigned bit = 0; bit < virtio::Features::count; ++bit) {
    if (!features.has(static_cast<virtio::Feature>(bit))) continue;
    const bool reserved = bit >= first_common && bit <= last_common;
    if (!reserved && device_id == blk::device_id) {
      names.push_back(name_in(blk_features, bit, "bit"));
    } else {
      names.push_back(name_in(common, bit, "bit"));
    }
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
