#pragma once

#include <cstddef>
#include <cstdint>

#include <outboard/base/endian.hpp>

/// Layout only: what VIRTIO 1.4 puts into shared memory and registers, the same for a device and a driver.
namespace outboard::virtio::spec {

/// 2.1 Device Status Field.
namespace status {
constexpr std::uint8_t acknowledge = 1, driver = 2, driver_ok = 4, features_ok = 8, suspend = 16, needs_reset = 64,
                       failed = 128;
}

constexpr std::uint32_t max_queue_size = 32768;

/// 2.7.5 The Virtqueue Descriptor Table.
struct Descriptor {
  le64 addr;
  le32 len;
  le16 flags;
  le16 next;
};
static_assert(sizeof(Descriptor) == 16 && alignof(Descriptor) <= 16);
static_assert(offsetof(Descriptor, len) == 8 && offsetof(Descriptor, flags) == 12 && offsetof(Descriptor, next) == 14);

/// Flags of both descriptor formats; the last two only in a packed ring (2.8.1).
namespace descriptor {
constexpr std::uint16_t next = 1, write = 2, indirect = 4, avail = 1 << 7, used = 1 << 15;
}

/// 2.7.6 The Virtqueue Available Ring: flags, idx, ring[size], used_event.
namespace avail {
constexpr std::uint16_t no_interrupt = 1;
constexpr std::size_t flags = 0, idx = 2, ring = 4, entry_size = 2;
constexpr std::size_t used_event(std::size_t queue_size) { return ring + entry_size * queue_size; }
constexpr std::size_t size(std::size_t queue_size) { return used_event(queue_size) + 2; }
constexpr std::size_t alignment = 2;
}  // namespace avail

/// 2.7.8 The Virtqueue Used Ring: flags, idx, ring[size], avail_event.
namespace used {
constexpr std::uint16_t no_notify = 1;
constexpr std::size_t flags = 0, idx = 2, ring = 4, entry_size = 8;
constexpr std::size_t avail_event(std::size_t queue_size) { return ring + entry_size * queue_size; }
constexpr std::size_t size(std::size_t queue_size) { return avail_event(queue_size) + 2; }
constexpr std::size_t alignment = 4;
}  // namespace used

struct UsedElement {
  le32 id;
  le32 len;
};
static_assert(sizeof(UsedElement) == 8);

constexpr std::size_t descriptor_alignment = 16;
constexpr std::size_t descriptor_table_size(std::size_t queue_size) { return 16 * queue_size; }

/// 2.8.13 The Virtqueue Descriptor Table of a packed ring.
struct PackedDescriptor {
  le64 addr;
  le32 len;
  le16 id;
  le16 flags;
};
static_assert(sizeof(PackedDescriptor) == 16);
static_assert(offsetof(PackedDescriptor, id) == 12 && offsetof(PackedDescriptor, flags) == 14);

/// 2.8.14 Event suppression structure: the driver area and the device area of a packed ring.
namespace event {
constexpr std::size_t off_wrap = 0, flags = 2, size = 4, alignment = 4;
constexpr std::uint16_t enable = 0, disable = 1, descriptor = 2, flags_mask = 3;
constexpr std::uint16_t offset_mask = 0x7fff, wrap = 0x8000;
}  // namespace event

}  // namespace outboard::virtio::spec
