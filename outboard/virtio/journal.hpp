#pragma once

#include <cstdint>
#include <span>

#include <outboard/virtio/queue_state.hpp>

namespace outboard::virtio {

/// Told, at four points, what a queue is about to do, so that another process can take over after a crash: what was
/// popped and not used is in flight. A write to the journal must be visible to whoever reads it after this process has
/// been killed (a shared mapping: program order), before the call returns.
///
/// The calls of one queue come on that queue's loop, status_changing on the control loop. Where no journal is attached
/// the queue pays one predictable branch.
class Journal {
 public:
  /// One buffer about to be put into the used ring.
  struct Completion {
    InFlight buffer;  ///< without its chain: popped() had it
    std::uint32_t length = 0;  ///< used length, bytes
  };

  virtual ~Journal() = default;

  /// 1. The buffer has been taken from the ring and nobody has seen it yet. Packed: the chain's descriptors, because used
  /// descriptors will overwrite the ring; empty for split.
  virtual void popped(unsigned queue, const InFlight& buffer, std::span<const std::byte> descriptors) = 0;
  /// `next_used` and `used_wrap`, here and below: the cursor after the batch. `buffer.chain` is empty: popped() had it.
  /// 2. The used entries are written; the next store (used.idx, or the first entry's flags) publishes them all.
  virtual void publishing(unsigned queue, std::span<const Completion> batch, std::uint16_t next_used,
                          bool used_wrap) = 0;
  /// 3. That store has been made.
  virtual void published(unsigned queue, std::span<const Completion> batch, std::uint16_t next_used,
                         bool used_wrap) = 0;
  /// 4. The device status is about to be acknowledged to the driver as `status`.
  virtual void status_changing(std::uint8_t status) = 0;
};

}  // namespace outboard::virtio
