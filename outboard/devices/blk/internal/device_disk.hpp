#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

#include <outboard/base/log.hpp>
#include <outboard/devices/blk/internal/device_limits.hpp>
#include <outboard/devices/blk/layout.hpp>
#include <outboard/storage/backend.hpp>
#include <outboard/virtio/device.hpp>

namespace outboard::blk {

/// What the queues of one device have in common. Written on the control loop, read on every queue's loop; what a request
/// needs is atomic, since a driver may write configuration while requests are under way.
class Disk {
 public:
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
  std::uint32_t max_write_zeroes_segments = device_limits::max_range_segments;

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
    return fast ? device_limits::fast_step : device_limits::slow_step;
  }

  /// Counts an I/O error of the storage, and logs the 1st, 2nd, 4th and so on.
  void failed(const char* what, std::uint64_t sector, int error) {
    const std::uint64_t count = failures.fetch_add(1, std::memory_order_relaxed) + 1;
    if (std::has_single_bit(count))
      log.error("{}: {} at sector {} failed: {} ({} so far)", primary.description(), what, sector, Error(error).what(),
                count);
  }
};

}  // namespace outboard::blk
