#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <outboard/base/endian.hpp>
#include <outboard/memory/internal/shared.hpp>
#include <outboard/virtio/internal/driver_buffers.hpp>
#include <outboard/virtio/internal/driver_ring.hpp>
#include <outboard/virtio/ring.hpp>

namespace outboard::virtio {

/// The driver's side of VIRTIO 1.4, 2.8 Packed Virtqueues. The same calls as SplitDriverRing.
class PackedDriverRing {
 public:
  explicit PackedDriverRing(const DriverRingLayout& layout);

  std::uint16_t free() const { return free_; }
  void add(const DriverChain& chain);
  bool publish();
  Taken take(DriverQueue::Used& used);
  bool arm();
  void disarm();
  std::uint16_t position() const { return next_avail_.off_wrap(); }

  DriverBuffers& buffers() { return buffers_; }
  const DriverBuffers& buffers() const { return buffers_; }

 private:
  void store_slot(const Element& element, std::uint16_t id, std::uint16_t flags);
  void add_indirect(const DriverChain& chain, std::uint16_t id);
  bool device_wants_notification() const;
  std::uint16_t load_flags(std::uint16_t slot) const;
  std::byte* slot_at(std::uint16_t slot) const { return layout_.descriptors + std::size_t{slot} * 16; }

  DriverRingLayout layout_;
  std::uint16_t free_;
  std::uint16_t free_id_count_;
  PackedCursor next_avail_{};
  PackedCursor next_used_{};
  // The batch that is not published yet: its first descriptor's flags are kept back, and with them all the rest.
  std::uint16_t batch_slot_ = 0;
  std::uint16_t batch_flags_ = 0;
  std::uint16_t batch_count_ = 0;  ///< descriptors
  std::unique_ptr<std::uint16_t[]> free_ids_;
  DriverBuffers buffers_;

  memory::Shared<le16> driver_off_wrap_, driver_flags_;
  memory::Shared<le16> device_off_wrap_, device_flags_;
};

}  // namespace outboard::virtio
