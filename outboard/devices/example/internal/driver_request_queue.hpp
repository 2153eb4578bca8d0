#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <outboard/devices/example/driver.hpp>
#include <outboard/devices/example/layout.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/virtio/driver_queue.hpp>

namespace outboard::example {

/// The driver's side of requestq: calls into buffers, used buffers into answers. Lives from one start of the device to its
/// reset. One thread.
class RequestQueue {
 public:
  /// `limited`: LIMIT was negotiated. EPROTO: the device's queue is too small for a request.
  static Result<RequestQueue> create(virtio::Transport& transport, const virtio::Features& features, bool limited,
                                     std::uint16_t depth, std::optional<unsigned> vector);

  virtio::DriverQueue& ring() { return ring_; }
  /// Calls that fit.
  std::uint16_t depth() const { return static_cast<std::uint16_t>(slots_.size()); }
  bool idle() const { return free_.size() == slots_.size(); }

  /// `now`: the tick that the call begins in. EAGAIN: no room.
  Status add(Call& call, std::uint64_t now);
  /// Whether a call has been in flight for more than `ticks`.
  bool overdue(std::uint64_t now, std::uint64_t ticks) const;
  /// The next call that the device has answered, with its answer or its error filled in; nullptr: none for now. EPROTO:
  /// the device has broken a rule of the ring.
  Result<Call*> next();
  /// The device has been reset: what was in flight, in the order it was added.
  std::vector<Call*> take_in_flight();
  /// The device was never seen to stop: what it may still write to is never used for anything else.
  void abandon_memory() &&;

 private:
  struct Slot {
    Call* call = nullptr;
    std::uint16_t index = 0;
    std::uint64_t since = 0;  // tick
  };

  RequestQueue(virtio::DriverQueue ring, memory::DmaBuffer memory, bool limited, std::uint16_t depth);
  std::byte* at(const Slot& slot) const;
  Call* answered(Slot& slot, std::uint32_t length);

  virtio::DriverQueue ring_;
  memory::DmaBuffer memory_;
  bool limited_;
  std::vector<Slot> slots_;
  std::vector<Slot*> free_;
};

}  // namespace outboard::example
