#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>

#include <outboard/base/loop.hpp>
#include <outboard/devices/example/layout.hpp>
#include <outboard/virtio/request.hpp>

namespace outboard::example {

/// The device's side of the event queue: buffers that the driver has given, refusals that wait to be told, and the count
/// of those for which there was no buffer. It never holds more than the driver has given buffers for.
///
/// hit() and missed() on any thread; everything else on the event queue's loop, or while the queue is stopped.
class Events : public std::enable_shared_from_this<Events> {
 public:
  /// The queue delivers from here on; `loop` is its loop.
  void open(Loop& loop);
  /// Tells what is waiting (drain) or counts it as missed, and gives the buffers up.
  void close(bool drain);
  /// 5.x.7: a reset forgets what was missed.
  void clear();

  void take(virtio::Request buffer);
  /// A value was refused: becomes an event, or is counted.
  void hit(std::uint32_t value);

  std::uint32_t missed() const;
  void set_missed(std::uint32_t count);

 private:
  /// An event with a buffer set aside for it.
  struct Pending {
    std::uint32_t value = 0;
    std::uint32_t missed = 0;  // since the event before this one
  };

  void tell_pending();
  bool tell(virtio::Request buffer, const Pending& event);
  static void add(std::uint32_t& missed, std::uint64_t count);

  mutable std::mutex mutex_;
  Loop* loop_ = nullptr;  // null: the queue is stopped
  std::deque<virtio::Request> kept_;  // touched on the queue's loop only; its size is known to all as free_ + pending_
  std::size_t free_ = 0;  // kept buffers that no event waits for
  std::deque<Pending> pending_;
  bool posted_ = false;
  std::uint32_t missed_ = 0;
};

}  // namespace outboard::example
