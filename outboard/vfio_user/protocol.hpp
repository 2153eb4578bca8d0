#pragma once

#include <cstddef>
#include <cstdint>

#include <outboard/vfio_abi/vfio.hpp>

/// The vfio-user protocol: layout only. Byte order: the specification says "host", so the fields are plain integers.
/// Payload structures follow the header without padding. What VFIO defines as well is in <outboard/vfio_abi/vfio.hpp>.
namespace outboard::vfio_user::spec {

constexpr std::uint16_t version_major = 0;
constexpr std::uint16_t version_minor = 0;

/// What a capability is when the other side does not name it.
constexpr std::uint64_t default_max_data_xfer_size = 1048576;
constexpr std::uint64_t default_max_msg_fds = 1;
constexpr std::uint64_t default_max_dma_maps = 65535;
constexpr std::uint64_t default_pgsizes = 4096;

/// Of one SCM_RIGHTS message, by Linux.
constexpr unsigned kernel_max_fds = 253;
/// A VERSION reply longer than this does not fit the request buffer of QEMU 11.
constexpr std::size_t max_version_reply = 214;
/// DMA by messages: QEMU cuts longer replies short when they do not fit its socket buffer.
constexpr std::uint64_t max_dma_message = 65536;

enum class Command : std::uint16_t {
  version = 1,
  dma_map = 2,
  dma_unmap = 3,
  device_get_info = 4,
  device_get_region_info = 5,
  device_get_region_io_fds = 6,
  device_get_irq_info = 7,
  device_set_irqs = 8,
  region_read = 9,
  region_write = 10,
  dma_read = 11,   ///< server to client
  dma_write = 12,  ///< server to client
  device_reset = 13,
  // 14: was DIRTY_PAGES
  region_write_multi = 15,
  device_feature = 16,
  mig_data_read = 17,
  mig_data_write = 18,
};

struct Header {
  std::uint16_t msg_id;
  std::uint16_t command;
  std::uint32_t msg_size;  ///< with this header
  std::uint32_t flags;
  std::uint32_t error;  ///< errno; only in a reply with flag::error
};
static_assert(sizeof(Header) == 16);
static_assert(offsetof(Header, command) == 2 && offsetof(Header, msg_size) == 4 && offsetof(Header, flags) == 8 &&
              offsetof(Header, error) == 12);

namespace flag {
constexpr std::uint32_t type_mask = 0xf;
constexpr std::uint32_t command = 0x0;
constexpr std::uint32_t reply = 0x1;
constexpr std::uint32_t no_reply = 0x10;
constexpr std::uint32_t error = 0x20;
}  // namespace flag

/// VERSION; JSON text and a NUL follow.
struct Version {
  std::uint16_t major;
  std::uint16_t minor;
};
static_assert(sizeof(Version) == 4 && offsetof(Version, minor) == 2);

/// DMA_MAP. Flags: vfio_abi::dma_map_flag.
struct DmaMap {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint64_t offset;  ///< in the file that is attached
  std::uint64_t address;
  std::uint64_t size;
};
static_assert(sizeof(DmaMap) == 32);
static_assert(offsetof(DmaMap, flags) == 4 && offsetof(DmaMap, offset) == 8 && offsetof(DmaMap, address) == 16 &&
              offsetof(DmaMap, size) == 24);

/// DMA_UNMAP, both ways. Flags: vfio_abi::dma_unmap_flag.
struct DmaUnmap {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint64_t address;
  std::uint64_t size;
};
static_assert(sizeof(DmaUnmap) == 24);
static_assert(offsetof(DmaUnmap, flags) == 4 && offsetof(DmaUnmap, address) == 8 && offsetof(DmaUnmap, size) == 16);

/// DEVICE_GET_REGION_IO_FDS, both ways; sub-regions follow in the reply.
struct RegionIoFds {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t index;
  std::uint32_t count;
};
static_assert(sizeof(RegionIoFds) == 16);
static_assert(offsetof(RegionIoFds, flags) == 4 && offsetof(RegionIoFds, index) == 8 &&
              offsetof(RegionIoFds, count) == 12);

/// A sub-region of type ioeventfd, as the specification has it.
struct IoEventFd {
  std::uint64_t offset;
  std::uint64_t size;  ///< 0: a write of any width
  std::uint32_t fd_index;
  std::uint32_t type;
  std::uint32_t flags;
  std::uint32_t padding;
  std::uint64_t datamatch;
};
static_assert(sizeof(IoEventFd) == 40);
static_assert(offsetof(IoEventFd, size) == 8 && offsetof(IoEventFd, fd_index) == 16 &&
              offsetof(IoEventFd, type) == 20 && offsetof(IoEventFd, flags) == 24 &&
              offsetof(IoEventFd, datamatch) == 32);

/// The same as libvfio-user sends it; distinguished by the distance of the sub-regions.
struct IoEventFdWithShadow {
  std::uint64_t offset;
  std::uint64_t size;
  std::uint32_t fd_index;
  std::uint32_t type;
  std::uint32_t flags;
  std::uint32_t shadow_mem_fd_index;
  std::uint64_t shadow_offset;
  std::uint64_t datamatch;
};
static_assert(sizeof(IoEventFdWithShadow) == 48);
static_assert(offsetof(IoEventFdWithShadow, shadow_mem_fd_index) == 28 &&
              offsetof(IoEventFdWithShadow, shadow_offset) == 32 && offsetof(IoEventFdWithShadow, datamatch) == 40);

namespace io_fd_type {
constexpr std::uint32_t ioeventfd = 0;
constexpr std::uint32_t ioregionfd = 1;
constexpr std::uint32_t ioeventfd_shadow = 2;
}  // namespace io_fd_type

namespace ioeventfd_flag {
constexpr std::uint32_t datamatch = 1U << 0;  // KVM_IOEVENTFD_FLAG_DATAMATCH
}

/// REGION_READ and REGION_WRITE, both ways; data follow in a write and in a read's reply.
struct RegionAccess {
  std::uint64_t offset;
  std::uint32_t region;
  std::uint32_t count;
};
static_assert(sizeof(RegionAccess) == 16 && offsetof(RegionAccess, region) == 8 && offsetof(RegionAccess, count) == 12);

/// DMA_READ and DMA_WRITE, both ways; data follow in a write and in a read's reply.
struct DmaAccess {
  std::uint64_t address;
  std::uint64_t count;
};
static_assert(sizeof(DmaAccess) == 16 && offsetof(DmaAccess, count) == 8);

/// MIG_DATA_READ and MIG_DATA_WRITE; data follow in a write and in a read's reply.
struct MigrationData {
  std::uint32_t argsz;  ///< with this structure
  std::uint32_t size;
};
static_assert(sizeof(MigrationData) == 8 && offsetof(MigrationData, size) == 4);

/// REGION_WRITE_MULTI, both ways; `wr_cnt` entries follow in the request.
struct WriteMulti {
  std::uint64_t wr_cnt;
};
static_assert(sizeof(WriteMulti) == 8);

struct WriteMultiEntry {
  std::uint64_t offset;
  std::uint32_t region;
  std::uint32_t count;  ///< at most 8
  std::uint8_t data[8];
};
static_assert(sizeof(WriteMultiEntry) == 24);
static_assert(offsetof(WriteMultiEntry, region) == 8 && offsetof(WriteMultiEntry, count) == 12 &&
              offsetof(WriteMultiEntry, data) == 16);

}  // namespace outboard::vfio_user::spec
