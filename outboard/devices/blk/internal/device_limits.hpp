#pragma once

#include <cstdint>

/// The limits of the block device: what it accepts in one request, and how much of a request it passes to the storage at a time.
/// The limits that a driver keeps are in driver_limits.hpp.
namespace outboard::blk::device_limits {

constexpr unsigned max_queues = 256;
constexpr std::uint16_t min_queue_size = 4;  ///< a power of two with room for a header, data and a status
constexpr std::uint16_t max_queue_size = 32768;

// Elements of a chain.

/// Accepted in every chain, even where header, SEG_MAX and status are fewer. Some drivers exceed SEG_MAX by the element that
/// data need which begin in the middle of a page (viostor), others ignore it (OVMF); QEMU accepts 1024 whatever SEG_MAX is.
constexpr std::uint32_t min_chain_limit = 1024;
/// Accepted beyond header, SEG_MAX and status.
constexpr std::uint32_t spare_elements = 16;

// Data.

/// Bytes of data of one request; a longer request gets IOERR. VIRTIO has no such limit: copying or clearing 4 GiB would
/// keep a loop busy for seconds.
constexpr std::uint64_t max_data = UINT64_C(256) << 20;
/// Bytes that storage which works inside the call moves in one turn of the loop.
constexpr std::uint64_t turn_bytes = UINT64_C(4) << 20;

// Ranges: DISCARD and WRITE_ZEROES.

/// Segments of one DISCARD, and of one WRITE_ZEROES where the storage zeroes without writing (max_discard_seg,
/// max_write_zeroes_seg). Where it writes the zeros, a WRITE_ZEROES has one segment.
constexpr std::uint32_t max_range_segments = 32;
/// Sectors of one segment where the storage discards or zeroes without writing: 2 GiB (max_discard_sectors,
/// max_write_zeroes_sectors).
constexpr std::uint32_t max_fast_range_sectors = UINT32_C(1) << 22;
/// Sectors of one segment where the storage writes the zeros: 32 MiB.
constexpr std::uint32_t max_slow_range_sectors = UINT32_C(1) << 16;
/// Bytes of a segment that the storage is asked for at a time, so that a stop does not wait for the whole segment: where the storage
/// discards or zeroes without writing, and where it writes the zeros.
constexpr std::uint64_t fast_step = UINT64_C(64) << 20;
constexpr std::uint64_t slow_step = UINT64_C(1) << 20;

}  // namespace outboard::blk::device_limits
