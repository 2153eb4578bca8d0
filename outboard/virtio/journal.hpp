#pragma once

#include <cstdint>
#include <span>

#include <outboard/virtio/features.hpp>
#include <outboard/virtio/queue_state.hpp>

namespace outboard::virtio {

/// Told, at four points, what a queue is about to do, so that another process can take over after a crash: what was
/// popped and not used is in flight. A write to the journal must be visible to whoever reads it after this process has
/// been killed (a shared mapping: program order), before the call returns.
///
/// The calls of one queue come on that queue's loop, but for queue_starting() and queue_reset(), which come on the control
/// loop while the queue stands still (queue_starting(), where a journal takes another one's place, on the queue's loop);
/// status_changing() comes on the control loop. Where no journal is attached the queue pays one predictable branch.
class Journal {
 public:
  virtual ~Journal() = default;

  /// 1. The buffer has been taken from the ring and nobody has seen it yet. Packed: with its chain, because used
  /// descriptors will overwrite the ring. A buffer that was in flight when the queue started is not told of again:
  /// queue_starting() had it.
  virtual void popped(unsigned queue, const InFlight& buffer) = 0;

  /// 2. The used entries are written; the next store (used.idx, or the first entry's flags) publishes them all.
  /// `next_used` and `used_wrap`, here and below: the cursor after the batch. Each buffer of the batch was popped(), or in
  /// flight when the queue started.
  virtual void publishing(unsigned queue, std::span<const UsedBuffer> batch, std::uint16_t next_used,
                          bool used_wrap) = 0;
  /// 3. That store has been made.
  virtual void published(unsigned queue, std::span<const UsedBuffer> batch, std::uint16_t next_used,
                         bool used_wrap) = 0;

  /// 4. The device status is about to be acknowledged to the driver as `status`. `accepted`: what the driver has accepted;
  /// final once `status` has FEATURES_OK. 0: the device has been reset, and nothing is in flight in any queue.
  virtual void status_changing(std::uint8_t status, const Features& accepted) = 0;

  /// The queue is about to run from `state`; its engine has touched nothing yet. Told before the status that makes it run,
  /// and again each time it goes on after having been stopped, then with what was in flight. After a recovery `state` is
  /// what the journal itself has said.
  virtual void queue_starting(unsigned queue, const QueueState& state, bool packed) = 0;
  /// The driver has reset the queue (RING_RESET): nothing of it is in flight any more. Told before that is acknowledged.
  virtual void queue_reset(unsigned queue) = 0;
};

}  // namespace outboard::virtio
