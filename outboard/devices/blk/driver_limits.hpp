#pragma once

#include <cstdint>

#include <outboard/devices/blk/layout.hpp>

namespace outboard::blk {

/// The limits that a driver uses: the device's configuration with invalid values replaced.
struct Limits {
  std::uint64_t capacity = 0;              ///< sectors of 512 bytes
  std::uint32_t block_size = 512;          ///< bytes; power of two
  std::uint32_t physical_block_size = 512; ///< bytes; power of two, at least block_size
  std::uint32_t optimal_io_size = 0;       ///< bytes; 0: unknown
  std::uint32_t seg_max = 1;               ///< data elements of one request, at least 1
  std::uint32_t size_max = UINT32_MAX;     ///< bytes of one element, at least 512
  std::uint16_t queues = 1;                ///< at least 1
  std::uint32_t max_discard_sectors = 0;       ///< of one range; 0: no DISCARD
  std::uint32_t max_write_zeroes_sectors = 0;  ///< of one range; 0: no WRITE_ZEROES
  bool write_zeroes_may_unmap = false;
  bool read_only = false;
  bool flush = false;                      ///< FLUSH requests are worth sending
  friend bool operator==(const Limits&, const Limits&) = default;
};

/// `config` is one consistent read of the device's configuration, `accepted` the negotiated features. An invalid field (a block
/// size of 0, no segments, no queues, ranges of 0 sectors, a capacity beyond 2^64 bytes) is treated as if its feature had not
/// been accepted.
Limits sanitise(const spec::Config& config, const virtio::Features& accepted);

}  // namespace outboard::blk
