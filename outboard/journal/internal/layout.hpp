#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/endian.hpp>

/// Layout only: the file of a File, versions 1 and 2 (which has one area more). docs/journal.md has it in words. All
/// fields are little-endian and naturally aligned; each is read and written with one access of its width.
///
/// What is written once carries a CRC-32C. What is written while the device runs cannot: a kill between two stores would
/// make it wrong. There each word carries a check of its own (seal()), which any single wrong byte breaks.
namespace outboard::journal::layout {

constexpr std::array<std::uint8_t, 8> magic{'O', 'B', 'I', 'N', 'F', 'L', 'T', '\n'};
constexpr std::uint32_t version = 2;
constexpr std::uint32_t first_version = 1;  ///< without the area of the storage; read, and no longer made
constexpr std::size_t instance_size = 256;
constexpr std::size_t transport_size = 1024;
constexpr std::size_t storage_size = 1024;

/// At 0. What the file is for; `queue_count` le16 follow, the maximum size of each queue. Does not change; `magic` is stored
/// last, when all else of a new file is there.
struct Header {
  std::array<std::uint8_t, 8> magic;
  le32 version;
  le32 size;  ///< of this and the queue sizes
  le64 file_size;
  std::array<std::uint8_t, 16> boot_id;  ///< of the kernel that runs when the file is made
  le32 device_id;
  le32 queue_count;
  std::array<le32, 4> offered;
  le32 config_size;
  le32 instance_length;
  std::array<std::byte, instance_size> instance;
  le32 reserved;
  le32 checksum;  ///< CRC-32C of the `size` bytes with this field as 0
};
static_assert(sizeof(Header) == 336 && alignof(Header) == 8);
static_assert(offsetof(Header, version) == 8 && offsetof(Header, file_size) == 16 && offsetof(Header, boot_id) == 24 &&
              offsetof(Header, device_id) == 40 && offsetof(Header, offered) == 48 &&
              offsetof(Header, config_size) == 64 && offsetof(Header, instance) == 72 &&
              offsetof(Header, checksum) == 332);

/// At the first multiple of `page` behind the header and the queue sizes. What changes with the device.
struct Control {
  le64 life;  ///< seal() of the epoch << 8 | the device status
  std::array<le64, 2> accepted;  ///< feature bits; final when FEATURES_OK is in the status
  le32 accepted_checksum;  ///< CRC-32C of `accepted`
  le32 owner_pid;
  le64 owner_start_time;
  std::array<le64, 3> reserved;
};
static_assert(sizeof(Control) == 64);
static_assert(offsetof(Control, accepted) == 8 && offsetof(Control, accepted_checksum) == 24 &&
              offsetof(Control, owner_pid) == 28 && offsetof(Control, owner_start_time) == 32);

/// Bytes that are replaced as a whole: two slots behind this, each an AreaSlot and room for the bytes; slot current & 1
/// holds what counts.
struct Area {
  le64 current;  ///< seal() of a number that counts up; 0: never written
};
struct AreaSlot {
  le32 length;
  le32 checksum;  ///< CRC-32C of the number (le64), `length` and the bytes
};
static_assert(sizeof(Area) == 8 && sizeof(AreaSlot) == 8);

/// At the start of a queue's region. Behind it the batch (le16 for each entry of the queue), then the entries.
struct Queue {
  le64 run;  ///< seal() of the epoch in which the queue runs, or has run; 0: none
  le16 size;  ///< entries
  le16 format;  ///< split_ring, packed_ring
  le32 reserved1;
  le64 descriptors;  ///< where the ring's parts are
  le64 driver;
  le64 device;
  le64 progress;  ///< Progress, sealed
  le32 checksum;  ///< CRC-32C of the fields before `progress`, with the `run` for which they count
  le32 reserved2;
  le64 reserved3;
};
static_assert(sizeof(Queue) == 64);
static_assert(offsetof(Queue, size) == 8 && offsetof(Queue, format) == 10 && offsetof(Queue, descriptors) == 16 &&
              offsetof(Queue, progress) == 40 && offsetof(Queue, checksum) == 48);
constexpr std::uint64_t run_place = 0x72756e;  ///< of `run`, for its check
constexpr std::uint16_t split_ring = 1;
constexpr std::uint16_t packed_ring = 2;

/// Split: one for each descriptor index. seal() of the number of the pop, or 0: no buffer with this head is in flight.
using SplitEntry = le64;

/// Packed: a descriptor of a buffer in flight. Which entries a buffer has is the journal's choice.
struct PackedEntry {
  le64 order;  ///< first of a buffer: as SplitEntry. Others: 0
  le64 address;
  le32 length;
  le16 flags;  ///< descriptor::write, descriptor::indirect
  le16 next;  ///< entry of the next descriptor; none
  le16 id;  ///< these three: of the buffer
  le16 head;  ///< slot in the ring where it starts
  le16 count;  ///< descriptors
  le16 check;  ///< fold() of all but `order`
};
static_assert(sizeof(PackedEntry) == 32);
static_assert(offsetof(PackedEntry, address) == 8 && offsetof(PackedEntry, length) == 16 &&
              offsetof(PackedEntry, flags) == 20 && offsetof(PackedEntry, id) == 24 &&
              offsetof(PackedEntry, check) == 30);
constexpr std::uint16_t none = 0xffff;

/// A word of 56 bits and, in its lowest byte, a check that any single wrong byte breaks. `place` keeps a word from being taken
/// for that of another place.
constexpr std::uint64_t fold8(std::uint64_t value, std::uint64_t place) {
  std::uint64_t x = value ^ place;
  x ^= x >> 32;
  x ^= x >> 16;
  x ^= x >> 8;
  return (x ^ 0xa5) & 0xff;
}
constexpr std::uint64_t seal(std::uint64_t value, std::uint64_t place) { return value << 8 | fold8(value, place); }
constexpr bool sealed(std::uint64_t word, std::uint64_t place) { return (word & 0xff) == fold8(word >> 8, place); }
constexpr std::uint64_t unseal(std::uint64_t word) { return word >> 8; }

/// The second to fourth words of a PackedEntry, with `check` as 0.
constexpr std::uint16_t fold16(std::uint64_t a, std::uint64_t b, std::uint64_t c, std::uint64_t place) {
  std::uint64_t x = a ^ b ^ c ^ place;
  x ^= x >> 32;
  x ^= x >> 16;
  return static_cast<std::uint16_t>(x ^ 0xc3a5);
}

/// How far a queue's used buffers got. While `count` is not 0 that many buffers (the batch) are being published: the ring
/// tells whether they have been. Split: indices. Packed: slot and, in bit 15, wrap counter.
struct Progress {
  std::uint16_t from = 0;  ///< before the batch
  std::uint16_t to = 0;  ///< after it; the same where there is none
  std::uint16_t count = 0;

  constexpr std::uint64_t word() const {
    return std::uint64_t{from} | std::uint64_t{to} << 16 | std::uint64_t{count} << 32 | std::uint64_t{check()} << 48;
  }
  static constexpr Progress of(std::uint64_t word) {
    return {static_cast<std::uint16_t>(word), static_cast<std::uint16_t>(word >> 16),
            static_cast<std::uint16_t>(word >> 32)};
  }
  constexpr std::uint16_t check() const { return static_cast<std::uint16_t>(from ^ to ^ count ^ 0xc3a5); }
};

/// CRC-32C (Castagnoli), as iSCSI has it. `so_far`: of the bytes before these.
std::uint32_t crc32c(Bytes bytes, std::uint32_t so_far = 0);

/// Where the parts of a file are.
struct Places {
  std::size_t control = 0;
  std::size_t transport = 0;  ///< Area
  std::size_t config = 0;  ///< Area
  std::vector<std::size_t> queues;  ///< Queue
  std::size_t storage = 0;  ///< Area; 0: the version has none
  std::size_t file_size = 0;
};
/// Of a file for queues of these sizes. `may_be_packed`: RING_PACKED is offered. `of_version`: first_version ... version.
Places places(std::span<const std::uint16_t> queue_sizes, std::uint32_t config_size, bool may_be_packed,
              std::uint32_t of_version = version);

constexpr std::size_t page = 4096;
constexpr std::size_t line = 64;
constexpr std::size_t round_up(std::size_t value, std::size_t to) { return (value + to - 1) / to * to; }
constexpr std::size_t area_slot_size(std::size_t capacity) { return sizeof(AreaSlot) + round_up(capacity, 8); }
constexpr std::size_t area_size(std::size_t capacity) { return sizeof(Area) + 2 * area_slot_size(capacity); }
constexpr std::size_t queue_entries(std::size_t queue_size) {
  return round_up(sizeof(Queue) + queue_size * sizeof(le16), line);
}

}  // namespace outboard::journal::layout
