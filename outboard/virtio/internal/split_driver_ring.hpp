#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <outboard/base/endian.hpp>
#include <outboard/memory/internal/shared.hpp>
#include <outboard/virtio/internal/driver_buffers.hpp>
#include <outboard/virtio/internal/driver_ring.hpp>

namespace outboard::virtio {

/// The driver's side of VIRTIO 1.4, 2.7 Split Virtqueues. Of the shared memory only the used ring is ever read.
class SplitDriverRing {
 public:
  explicit SplitDriverRing(const DriverRingLayout& layout);

  std::uint16_t free() const { return free_; }  ///< ring slots
  void add(const DriverChain& chain);
  /// Whether the device wants a notification.
  bool publish();
  Taken take(DriverQueue::Used& used);
  /// True: something is used already.
  bool arm();
  void disarm();
  /// For NOTIFICATION_DATA (4.1.5.2): where the next buffer will be put.
  std::uint16_t position() const { return next_avail_; }

  DriverBuffers& buffers() { return buffers_; }
  const DriverBuffers& buffers() const { return buffers_; }

 private:
  std::uint16_t add_direct(const DriverChain& chain);
  void add_indirect(const DriverChain& chain, std::uint16_t slot);
  bool read_used_index();

  DriverRingLayout layout_;
  std::uint16_t mask_;
  std::uint16_t free_;
  std::uint16_t free_head_ = 0;
  std::uint16_t next_avail_ = 0;  ///< free-running, as the device will see it after publish()
  std::uint16_t published_ = 0;   ///< what it sees now
  std::uint16_t next_used_ = 0;
  std::uint16_t used_seen_ = 0;   ///< used.idx when it was read last
  std::unique_ptr<std::uint16_t[]> next_;  ///< links of chains and of the free list: never read back from the table
  DriverBuffers buffers_;

  memory::Shared<le16> avail_flags_, avail_idx_, used_event_;
  memory::Shared<le16> used_flags_, used_idx_, avail_event_;
};

}  // namespace outboard::virtio
