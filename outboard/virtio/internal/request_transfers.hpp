#pragma once

#include <cstdint>
#include <memory>

#include <outboard/virtio/internal/request_slot.hpp>

namespace outboard::virtio {

/// What RequestTransfers needs of its queue.
class TransferOwner {
 public:
  virtual ~TransferOwner() = default;
  /// A transfer has ended, perhaps inside the call that began it. `failure`: null, or what went wrong. Queue's loop.
  virtual void transferred(RequestSlot& slot, memory::Access access, const RingRule* failure) = 0;
  /// The queue is not run any more: ends transfers, without completions. Any thread.
  virtual bool is_abandoned() const = 0;
};

/// Buffers in memory that is reachable only by messages: the device works on a copy of the whole buffer, which is fetched
/// before the device gets the request, and written back before the buffer is used. Belongs to the queue's loop.
class RequestTransfers {
 public:
  static constexpr std::uint64_t max_bounce = UINT64_C(1) << 20;  ///< bytes of one buffer
  static constexpr std::uint64_t max_queue_bounce = UINT64_C(8) << 20;  ///< of all buffers of a queue

  /// `loop`: the queue's. `control`: where memory ports live. All of them outlive the queue, or abandon it first.
  RequestTransfers(memory::AddressMap& map, Loop& loop, Loop& control) : map_(map), loop_(loop), control_(control) {}

  /// Makes the copy of a buffer whose slot has a Bounce, and reads its readable part.
  void fetch(RequestSlot& slot, const std::shared_ptr<TransferOwner>& owner);
  /// Writes what the device has written into the copy.
  void write_back(RequestSlot& slot, const std::shared_ptr<TransferOwner>& owner);
  /// Gives up the copy.
  void release(RequestSlot& slot);
  /// A queue has none any more.
  void reset() { bytes_ = 0; }

  /// Transfers that have not ended.
  std::uint32_t running() const { return running_; }
  /// Whether so many bytes may be copied too.
  bool has_room_for(std::uint64_t bytes) const { return bytes <= max_queue_bounce - bytes_; }

 private:
  void next(RequestSlot& slot, memory::Access access, const std::shared_ptr<TransferOwner>& owner);
  void end(RequestSlot& slot, memory::Access access, const RingRule* failure, TransferOwner& owner);

  memory::AddressMap& map_;
  Loop& loop_;
  Loop& control_;
  std::uint32_t running_ = 0;
  std::uint64_t bytes_ = 0;  ///< of all copies
};

}  // namespace outboard::virtio
