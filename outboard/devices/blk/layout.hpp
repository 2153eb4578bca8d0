#pragma once

#include <cstddef>
#include <cstdint>

#include <outboard/base/endian.hpp>
#include <outboard/virtio/device_ids.hpp>
#include <outboard/virtio/features.hpp>

/// VIRTIO 1.4, 5.2 Block Device: the layout on the wire, for device and driver.
namespace outboard::blk {

/// 5.2.1 and 5.2.2.
constexpr std::uint32_t device_id = virtio::device_id::blk;

/// A position on the disk in units of 512 bytes, whatever the block size (5.2.4).
enum class Sector : std::uint64_t {};
constexpr std::uint64_t raw(Sector sector) { return static_cast<std::uint64_t>(sector); }
constexpr Sector operator+(Sector sector, std::uint64_t count) { return Sector{raw(sector) + count}; }
constexpr std::uint64_t sector_size = 512;

/// 5.2.3 Feature bits.
namespace feature {
constexpr virtio::Feature barrier{0};  // legacy interface only
constexpr virtio::Feature size_max{1};
constexpr virtio::Feature seg_max{2};
constexpr virtio::Feature geometry{4};
constexpr virtio::Feature ro{5};
constexpr virtio::Feature blk_size{6};
constexpr virtio::Feature scsi{7};  // legacy interface only
constexpr virtio::Feature flush{9};
constexpr virtio::Feature topology{10};
constexpr virtio::Feature config_wce{11};
constexpr virtio::Feature mq{12};
constexpr virtio::Feature discard{13};
constexpr virtio::Feature write_zeroes{14};
constexpr virtio::Feature lifetime{15};
constexpr virtio::Feature secure_erase{16};
constexpr virtio::Feature zoned{17};
}  // namespace feature

namespace spec {

/// 5.2.4 Device configuration layout, up to the fields of ZONED.
struct Config {
  le64 capacity;
  le32 size_max;
  le32 seg_max;
  le16 cylinders;
  std::uint8_t heads = 0;
  std::uint8_t sectors = 0;
  le32 blk_size;
  std::uint8_t physical_block_exp = 0;
  std::uint8_t alignment_offset = 0;
  le16 min_io_size;
  le32 opt_io_size;
  std::uint8_t writeback = 0;
  std::uint8_t unused0 = 0;
  le16 num_queues;
  le32 max_discard_sectors;
  le32 max_discard_seg;
  le32 discard_sector_alignment;
  le32 max_write_zeroes_sectors;
  le32 max_write_zeroes_seg;
  std::uint8_t write_zeroes_may_unmap = 0;
  std::uint8_t unused1[3] = {};
  le32 max_secure_erase_sectors;
  le32 max_secure_erase_seg;
  le32 secure_erase_sector_alignment;
};
static_assert(offsetof(Config, capacity) == 0 && offsetof(Config, size_max) == 8 && offsetof(Config, seg_max) == 12);
static_assert(offsetof(Config, cylinders) == 16 && offsetof(Config, heads) == 18 && offsetof(Config, sectors) == 19);
static_assert(offsetof(Config, blk_size) == 20 && offsetof(Config, physical_block_exp) == 24);
static_assert(offsetof(Config, alignment_offset) == 25 && offsetof(Config, min_io_size) == 26);
static_assert(offsetof(Config, opt_io_size) == 28 && offsetof(Config, writeback) == 32);
static_assert(offsetof(Config, unused0) == 33 && offsetof(Config, num_queues) == 34);
static_assert(offsetof(Config, max_discard_sectors) == 36 && offsetof(Config, max_discard_seg) == 40);
static_assert(offsetof(Config, discard_sector_alignment) == 44 && offsetof(Config, max_write_zeroes_sectors) == 48);
static_assert(offsetof(Config, max_write_zeroes_seg) == 52 && offsetof(Config, write_zeroes_may_unmap) == 56);
static_assert(offsetof(Config, unused1) == 57 && offsetof(Config, max_secure_erase_sectors) == 60);
static_assert(offsetof(Config, max_secure_erase_seg) == 64 && offsetof(Config, secure_erase_sector_alignment) == 68);
static_assert(sizeof(Config) == 72);

/// The size of Config in a device without SECURE_ERASE and ZONED.
constexpr std::uint32_t config_size = offsetof(Config, max_secure_erase_sectors);

/// 5.2.6 Device Operation: the header of every request. Data follow, then one writable byte of status.
struct RequestHeader {
  le32 type;
  le32 reserved;
  le64 sector;
};
static_assert(sizeof(RequestHeader) == 16 && offsetof(RequestHeader, sector) == 8);

namespace type {
constexpr std::uint32_t in = 0, out = 1, flush = 4, get_id = 8, get_lifetime = 10, discard = 11, write_zeroes = 13,
                        secure_erase = 14, zone_append = 15, zone_report = 16, zone_open = 18, zone_close = 20,
                        zone_finish = 22, zone_reset = 24, zone_reset_all = 26;
}

namespace status {
constexpr std::uint8_t ok = 0, ioerr = 1, unsupp = 2;
}

/// The data of GET_ID: characters, then zeros; 20 of them have no terminator.
constexpr std::size_t id_size = 20;

/// struct virtio_blk_discard_write_zeroes.
struct RangeSegment {
  static constexpr std::uint32_t unmap = 1;  ///< flags; the others are reserved

  le64 sector;
  le32 num_sectors;
  le32 flags;
};
static_assert(sizeof(RangeSegment) == 16 && offsetof(RangeSegment, flags) == 12);

}  // namespace spec
}  // namespace outboard::blk
