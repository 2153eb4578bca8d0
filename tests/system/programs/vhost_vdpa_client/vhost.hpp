#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

/// What a vhost-vdpa device (/dev/vhost-vdpa-N) is driven with: layout only, in the byte order of the host. Names follow
/// the kernel's <linux/vhost.h> and <linux/vhost_types.h> without their prefixes.
namespace outboard::vhost::spec {

struct VringState {
  std::uint32_t index;
  std::uint32_t num;
};
struct VringFile {
  std::uint32_t index;
  std::int32_t fd;
};
/// I/O virtual addresses: of the descriptor area, of the device area, of the driver area.
struct VringAddr {
  std::uint32_t index;
  std::uint32_t flags;
  std::uint64_t desc_user_addr;
  std::uint64_t used_user_addr;
  std::uint64_t avail_user_addr;
  std::uint64_t log_guest_addr;
};
static_assert(sizeof(VringState) == 8 && sizeof(VringFile) == 8 && sizeof(VringAddr) == 40);

/// `len` bytes follow.
struct VdpaConfig {
  std::uint32_t off;
  std::uint32_t len;
};
static_assert(sizeof(VdpaConfig) == 8);

/// What is written to the node: struct vhost_msg_v2 with a struct vhost_iotlb_msg.
struct IotlbMessage {
  std::uint32_t type;  ///< message_type
  std::uint32_t asid;
  std::uint64_t iova;
  std::uint64_t size;
  std::uint64_t uaddr;
  std::uint8_t perm;
  std::uint8_t operation;
  std::array<std::uint8_t, 38> padding;
};
static_assert(sizeof(IotlbMessage) == 72 && offsetof(IotlbMessage, uaddr) == 24 && offsetof(IotlbMessage, perm) == 32);
constexpr std::uint32_t message_type = 2;
namespace operation {
constexpr std::uint8_t update = 2, invalidate = 3, batch_begin = 5, batch_end = 6;
}
namespace perm {
constexpr std::uint8_t read = 1, write = 2, read_write = 3;
}
namespace backend_feature {
constexpr std::uint64_t msg_v2 = 1U << 1, batch = 1U << 2, asid = 1U << 3, suspend = 1U << 4;
}

namespace ioctl {
constexpr std::uint32_t number(std::uint32_t direction, std::uint32_t nr, std::size_t size) {
  return direction << 30 | static_cast<std::uint32_t>(size) << 16 | std::uint32_t{0xaf} << 8 | nr;
}
constexpr std::uint32_t none = 0, write = 1, read = 2, both = 3;

constexpr std::uint32_t get_features = number(read, 0x00, 8);
constexpr std::uint32_t set_features = number(write, 0x00, 8);
constexpr std::uint32_t set_owner = number(none, 0x01, 0);
constexpr std::uint32_t set_vring_num = number(write, 0x10, sizeof(VringState));
constexpr std::uint32_t set_vring_addr = number(write, 0x11, sizeof(VringAddr));
constexpr std::uint32_t set_vring_base = number(write, 0x12, sizeof(VringState));
constexpr std::uint32_t get_vring_base = number(both, 0x12, sizeof(VringState));
constexpr std::uint32_t set_vring_kick = number(write, 0x20, sizeof(VringFile));
constexpr std::uint32_t set_vring_call = number(write, 0x21, sizeof(VringFile));
constexpr std::uint32_t set_backend_features = number(write, 0x25, 8);
constexpr std::uint32_t get_backend_features = number(read, 0x26, 8);
constexpr std::uint32_t get_device_id = number(read, 0x70, 4);
constexpr std::uint32_t get_status = number(read, 0x71, 1);
constexpr std::uint32_t set_status = number(write, 0x72, 1);
constexpr std::uint32_t get_config = number(read, 0x73, sizeof(VdpaConfig));
constexpr std::uint32_t set_config = number(write, 0x74, sizeof(VdpaConfig));
constexpr std::uint32_t set_vring_enable = number(write, 0x75, sizeof(VringState));
constexpr std::uint32_t get_vring_num = number(read, 0x76, 2);
constexpr std::uint32_t set_config_call = number(write, 0x77, 4);
constexpr std::uint32_t get_config_size = number(read, 0x79, 4);
constexpr std::uint32_t get_as_num = number(read, 0x7a, 4);
constexpr std::uint32_t get_vring_group = number(both, 0x7b, sizeof(VringState));
constexpr std::uint32_t set_group_asid = number(write, 0x7c, sizeof(VringState));
constexpr std::uint32_t suspend = number(none, 0x7d, 0);
constexpr std::uint32_t get_vqs_count = number(read, 0x80, 4);
constexpr std::uint32_t get_group_num = number(read, 0x81, 4);

static_assert(set_owner == 0xaf01 && get_vring_base == 0xc008af12 && set_vring_addr == 0x4028af11);
}  // namespace ioctl

}  // namespace outboard::vhost::spec
