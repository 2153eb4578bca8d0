#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

#include <outboard/base/log.hpp>
#include <outboard/devices/blk/layout.hpp>
#include <outboard/storage/backend.hpp>
#include <outboard/virtio/device.hpp>

namespace outboard::blk {

/// What the queues of one device have in common. Written on the control loop, read on every queue's loop; what a request
/// needs is atomic, since a driver may write configuration while requests are under way.
class Disk {
 public:
  /// Range segments that one DISCARD or WRITE_ZEROES may have.
  static constexpr std::uint32_t max_segments = 32;
  /// Ours: data of one request, in bytes. Without it a single request could keep a loop busy for as long as copying or
  /// clearing 4 GiB takes. More is IOERR.
  static constexpr std::uint64_t max_data = UINT64_C(256) << 20;

  /// Bytes that storage which does its work inside the call is asked for in one turn of the loop.
  static constexpr std::uint64_t turn_bytes = UINT64_C(4) << 20;

  /// Bytes of a range that other storage is asked for at a time, so that a stop need not wait for all of them: where it has a
  /// fast way, and where it has to write zeros.
  static constexpr std::uint64_t fast_step = UINT64_C(64) << 20;
  static constexpr std::uint64_t slow_step = UINT64_C(1) << 20;

  explicit Disk(storage::Backend& primary_backend) : primary(primary_backend), read_only(primary.geometry().read_only) {
    refresh();
  }

  void refresh() { capacity.store(primary.geometry().capacity / sector_size, std::memory_order_relaxed); }

  storage::Backend& primary;
  const bool read_only;
  virtio::Host* host = nullptr;
  Log log;  ///< the host's; outlives it
  std::array<char, spec::id_size> id{};
  std::uint32_t max_discard_sectors = 0;
  std::uint32_t max_write_zeroes_sectors = 0;
  std::uint32_t max_write_zeroes_segments = max_segments;

  std::atomic<std::uint64_t> capacity{0};  ///< sectors
  std::atomic<bool> writeback{true};  ///< false: a write is on the medium when it is completed
  std::atomic<bool> discard{false};  ///< negotiated
  std::atomic<bool> write_zeroes{false};  ///< negotiated
  std::atomic<std::uint64_t> failures{0};

  bool holds(std::uint64_t sector, std::uint64_t count) const {
    return range_within(sector, count, capacity.load(std::memory_order_relaxed));
  }

  /// Bytes of a range to ask the storage for at a time; `unmap` as in a range segment.
  std::uint64_t range_step(std::uint32_t type, bool unmap) const {
    const storage::Geometry shape = primary.geometry();
    const bool fast = type == spec::type::discard || shape.can_write_zeroes || (unmap && shape.can_unmap_zeroes);
    return fast ? fast_step : slow_step;
  }

  /// An I/O error of the storage. The log hears of the 1st, 2nd, 4th and so on.
  void failed(const char* what, std::uint64_t sector, int error) {
    const std::uint64_t count = failures.fetch_add(1, std::memory_order_relaxed) + 1;
    if (std::has_single_bit(count))
      log.error("{} at sector {} failed: {} ({} so far)", what, sector, Error(error).what(), count);
  }
};

}  // namespace outboard::blk
