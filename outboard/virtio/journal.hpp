#pragma once

#include <cstdint>
#include <span>

#include <outboard/virtio/features.hpp>
#include <outboard/virtio/queue_state.hpp>

namespace outboard::virtio {

/// Records the buffers in flight (popped and not used yet), so that another process can take the device over after a crash. A
/// queue calls it at four points. When a call returns, its record must survive a kill of this process (in a shared mapping,
/// stores in program order do).
///
/// The calls of a queue are made on that queue's loop, except queue_starting() and queue_reset(), which are made on the control
/// loop while the queue is stopped (DeviceCore::change_journal() calls queue_starting() on the queue's loop). status_changing()
/// is called on the control loop. Without a journal a queue executes one predictable branch instead.
class Journal {
 public:
  virtual ~Journal() = default;

  /// 1. The buffer has been taken from the ring; the device has not received it yet. Packed: `buffer` has the chain, because
  /// used descriptors will overwrite the ring. Not called for a buffer that was in flight when the queue started:
  /// queue_starting() has recorded it.
  virtual void popped(unsigned queue, const InFlight& buffer) = 0;

  /// 2. The used entries of a batch are written; the next store (used.idx, or the first entry's flags) publishes them.
  /// `next_used` and `used_wrap`, here and below: the cursor after the batch. popped() or queue_starting() has recorded each
  /// buffer of the batch.
  virtual void publishing(unsigned queue, std::span<const UsedBuffer> batch, std::uint16_t next_used,
                          bool used_wrap) = 0;
  /// 3. That store has been made.
  virtual void published(unsigned queue, std::span<const UsedBuffer> batch, std::uint16_t next_used,
                         bool used_wrap) = 0;

  /// 4. The device status is about to be acknowledged to the driver as `status`; 0: the device has been reset, and no buffer is
  /// in flight. `accepted`: the features that the driver has accepted; final once `status` has FEATURES_OK.
  virtual void status_changing(std::uint8_t status, const Features& accepted) = 0;

  /// The queue is about to run from `state`, and has not accessed the ring yet. Called before the status that starts it, and
  /// each time it continues after a stop, with the buffers in flight. After a recovery `state` is what the journal itself
  /// returned.
  virtual void queue_starting(unsigned queue, const QueueState& state, bool packed) = 0;
  /// The driver has reset the queue (RING_RESET): it has no buffers in flight any more. Called before the reset is
  /// acknowledged.
  virtual void queue_reset(unsigned queue) = 0;
};

}  // namespace outboard::virtio
