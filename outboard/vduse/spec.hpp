#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

/// The user interface of the kernel's VDUSE (<linux/vduse.h>): layout only, in the byte order of the host. Ours, because
/// those of the distribution are too old; names follow the kernel's without their prefixes. Checked against the header of
/// the guest's kernel by a test. API version 0 unless a field says otherwise.
namespace outboard::vduse::spec {

constexpr std::uint64_t api_version_0 = 0;
constexpr std::uint64_t api_version_1 = 1;  ///< queue groups and address spaces
constexpr std::uint32_t name_size = 256;

/// struct vduse_dev_config. `config_size` bytes of device configuration follow.
struct DeviceConfig {
  std::array<char, name_size> name;
  std::uint32_t vendor_id;
  std::uint32_t device_id;
  std::uint64_t features;
  std::uint32_t vq_num;
  std::uint32_t vq_align;
  std::uint32_t ngroups;  ///< API 1
  std::uint32_t nas;  ///< API 1: address spaces
  std::array<std::uint32_t, 11> reserved;
  std::uint32_t config_size;
};
static_assert(sizeof(DeviceConfig) == 336);
static_assert(offsetof(DeviceConfig, vendor_id) == 256 && offsetof(DeviceConfig, features) == 264 &&
              offsetof(DeviceConfig, vq_num) == 272 && offsetof(DeviceConfig, ngroups) == 280 &&
              offsetof(DeviceConfig, nas) == 284 && offsetof(DeviceConfig, config_size) == 332);

/// struct vduse_iotlb_entry. `start` and `last` are asked for, and are what was found then.
struct IotlbEntry {
  std::uint64_t offset;  ///< of `start` in the descriptor that is returned
  std::uint64_t start;
  std::uint64_t last;  ///< inclusive
  std::uint8_t perm;
  std::array<std::uint8_t, 7> padding;
};
static_assert(sizeof(IotlbEntry) == 32 && offsetof(IotlbEntry, perm) == 24);

/// struct vduse_iotlb_entry_v2: API 1.
struct IotlbEntryV2 {
  std::uint64_t offset;
  std::uint64_t start;
  std::uint64_t last;
  std::uint8_t perm;
  std::array<std::uint8_t, 7> padding;
  std::uint32_t asid;
  std::array<std::uint32_t, 11> reserved;
};
static_assert(sizeof(IotlbEntryV2) == 80 && offsetof(IotlbEntryV2, asid) == 32);

namespace perm {
constexpr std::uint8_t read = 1;
constexpr std::uint8_t write = 2;
}  // namespace perm

/// struct vduse_config_data. `length` bytes follow.
struct ConfigData {
  std::uint32_t offset;
  std::uint32_t length;
};
static_assert(sizeof(ConfigData) == 8);

/// struct vduse_vq_config.
struct VqConfig {
  std::uint32_t index;
  std::uint16_t max_size;
  std::uint16_t reserved1;
  std::uint32_t group;  ///< API 1
  std::array<std::uint16_t, 10> reserved2;
};
static_assert(sizeof(VqConfig) == 32 && offsetof(VqConfig, group) == 8);

/// struct vduse_vq_state_split.
struct VqStateSplit {
  std::uint16_t avail_index;
};

/// struct vduse_vq_state_packed: counters are wrap counters.
struct VqStatePacked {
  std::uint16_t last_avail_counter;
  std::uint16_t last_avail_idx;
  std::uint16_t last_used_counter;
  std::uint16_t last_used_idx;
};
static_assert(sizeof(VqStateSplit) == 2 && sizeof(VqStatePacked) == 8);

/// The state of a virtqueue; which member counts follows from RING_PACKED.
union VqState {
  VqStateSplit split;
  VqStatePacked packed;
};

/// struct vduse_vq_info.
struct VqInfo {
  std::uint32_t index;
  std::uint32_t num;
  std::uint64_t desc_addr;
  std::uint64_t driver_addr;
  std::uint64_t device_addr;
  VqState state;
  std::uint8_t ready;
};
static_assert(sizeof(VqInfo) == 48);
static_assert(offsetof(VqInfo, desc_addr) == 8 && offsetof(VqInfo, state) == 32 && offsetof(VqInfo, ready) == 40);

/// struct vduse_vq_eventfd.
struct VqEventfd {
  std::uint32_t index;
  std::int32_t fd;  ///< -1 takes it away
};
static_assert(sizeof(VqEventfd) == 8);

/// struct vduse_iova_umem.
struct IovaUmem {
  std::uint64_t uaddr;
  std::uint64_t iova;
  std::uint64_t size;
  std::uint32_t asid;  ///< API 1
  std::array<std::uint32_t, 5> reserved;
};
static_assert(sizeof(IovaUmem) == 48 && offsetof(IovaUmem, asid) == 24);

/// struct vduse_iova_info.
struct IovaInfo {
  std::uint64_t start;
  std::uint64_t last;
  std::uint64_t capability;
  std::uint32_t asid;  ///< API 1
  std::array<std::uint32_t, 5> reserved;
};
static_assert(sizeof(IovaInfo) == 48 && offsetof(IovaInfo, asid) == 24);

namespace capability {
constexpr std::uint64_t umem = 1U << 0;
}

/// enum vduse_req_type.
enum class RequestType : std::uint32_t {
  get_vq_state = 0,
  set_status = 1,
  update_iotlb = 2,
  set_vq_group_asid = 3,  ///< API 1
  set_vq_ready = 4,  ///< where feature::queue_ready was set
  suspend = 5,  ///< where feature::suspend was set
};

/// What VDUSE_SET_FEATURES takes (kernels from 7.3 on).
namespace feature {
constexpr std::uint64_t queue_ready = 1U << 0;
constexpr std::uint64_t suspend = 1U << 1;
}  // namespace feature

constexpr std::size_t message_size = 152;

/// struct vduse_dev_request. The payload's layout follows from the type.
struct Request {
  std::uint32_t type;
  std::uint32_t request_id;
  std::array<std::uint32_t, 4> reserved;
  std::array<std::byte, 128> payload;
};
static_assert(sizeof(Request) == message_size && offsetof(Request, payload) == 24);

/// Payloads of requests, from the payload's first byte on.
struct VqStateRequest {
  std::uint32_t index;
};
struct StatusRequest {
  std::uint8_t status;
};
struct UpdateIotlbRequest {
  std::uint64_t start;
  std::uint64_t last;
  std::uint32_t asid;  ///< API 1
};
struct GroupAsidRequest {
  std::uint32_t group;
  std::uint32_t asid;
};
struct VqReadyRequest {
  std::uint32_t index;
  std::uint32_t ready;
};
static_assert(offsetof(UpdateIotlbRequest, asid) == 16);

namespace result {
constexpr std::uint32_t ok = 0;
constexpr std::uint32_t failed = 1;
}  // namespace result

/// struct vduse_dev_response.
struct Response {
  std::uint32_t request_id;
  std::uint32_t result;
  std::array<std::uint32_t, 4> reserved;
  std::array<std::byte, 128> payload;
};
static_assert(sizeof(Response) == message_size && offsetof(Response, payload) == 24);

/// The payload of the answer to get_vq_state.
struct VqStateResponse {
  std::uint32_t index;
  VqState state;
};
static_assert(sizeof(VqStateResponse) == 12 && offsetof(VqStateResponse, state) == 4);

/// Numbers of the ioctls, as the kernel's _IO macros make them on machines where the direction has two bits and the size
/// fourteen (all that Debian builds for, but for alpha, mips, powerpc and sparc).
namespace ioctl {
constexpr std::uint32_t number(std::uint32_t direction, std::uint32_t nr, std::size_t size) {
  return direction << 30 | static_cast<std::uint32_t>(size) << 16 | std::uint32_t{0x81} << 8 | nr;
}
constexpr std::uint32_t none = 0, write = 1, read = 2, both = 3;

// On /dev/vduse/control.
constexpr std::uint32_t get_api_version = number(read, 0x00, 8);
constexpr std::uint32_t set_api_version = number(write, 0x01, 8);
constexpr std::uint32_t create_dev = number(write, 0x02, sizeof(DeviceConfig));
constexpr std::uint32_t destroy_dev = number(write, 0x03, name_size);
constexpr std::uint32_t get_features = number(read, 0x04, 8);  ///< kernels from 7.3 on
constexpr std::uint32_t set_features = number(write, 0x05, 8);  ///< kernels from 7.3 on

// On /dev/vduse/NAME.
constexpr std::uint32_t iotlb_get_fd = number(both, 0x10, sizeof(IotlbEntry));
constexpr std::uint32_t dev_get_features = number(read, 0x11, 8);
constexpr std::uint32_t dev_set_config = number(write, 0x12, sizeof(ConfigData));
constexpr std::uint32_t dev_inject_config_irq = number(none, 0x13, 0);
constexpr std::uint32_t vq_setup = number(write, 0x14, sizeof(VqConfig));
constexpr std::uint32_t vq_get_info = number(both, 0x15, sizeof(VqInfo));
constexpr std::uint32_t vq_setup_kickfd = number(write, 0x16, sizeof(VqEventfd));
constexpr std::uint32_t vq_inject_irq = number(write, 0x17, 4);
constexpr std::uint32_t iotlb_reg_umem = number(write, 0x18, sizeof(IovaUmem));
constexpr std::uint32_t iotlb_dereg_umem = number(write, 0x19, sizeof(IovaUmem));
constexpr std::uint32_t iotlb_get_info = number(both, 0x1a, sizeof(IovaInfo));
constexpr std::uint32_t iotlb_get_fd2 = number(both, 0x1b, sizeof(IotlbEntryV2));

static_assert(create_dev == 0x41508102 && destroy_dev == 0x41008103 && iotlb_get_fd == 0xc0208110 &&
              dev_inject_config_irq == 0x00008113 && vq_get_info == 0xc0308115 && iotlb_get_fd2 == 0xc050811b);
}  // namespace ioctl

}  // namespace outboard::vduse::spec
