#pragma once

#include <atomic>
#include <cstddef>
#include <cstring>

#include <outboard/base/bytes.hpp>
#include <outboard/memory/iova.hpp>

namespace outboard::memory {

/// memcpy() that is inlined for the usual sizes of a request's header and status byte.
inline void copy_short(std::byte* to, const std::byte* from, std::size_t size) {
  if (size == 16) {
    std::memcpy(to, from, 16);
  } else if (size == 1) {
    *to = *from;
  } else {
    std::memcpy(to, from, size);
  }
}

/// Receives the ranges that a device has written in its driver's memory, for a log of dirty pages.
class WriteLog {
 public:
  virtual ~WriteLog() = default;
  /// Bytes of the range have been written. The driver has not been notified of them yet, except if the write itself publishes
  /// them (a ring's index). The range may be larger than what was written. Called on the thread that wrote.
  virtual void written(IovaRange range) = 0;
};

/// All writes of a device to its driver's memory go through this class: it copies bytes, and records what rings store and what
/// back ends and peers write. Without a log a write costs one predictable branch. Any thread.
class DeviceWrites {
 public:
  /// Sets the log; null: none. Another thread may still use the previous log for a moment, so a log must outlive the device, or
  /// the device's queues must be stopped.
  void set_log(WriteLog* log) { log_.store(log, std::memory_order_release); }
  bool has_log() const { return log_.load(std::memory_order_relaxed) != nullptr; }

  /// Copies `from` to `to`, the host address of `at`.
  void copy(std::byte* to, Iova at, Bytes from) const {
    copy_short(to, from.data(), from.size());
    note({at, from.size()});
  }
  void zero(std::byte* to, Iova at, std::uint64_t size) const {
    std::memset(to, 0, size);
    note({at, size});
  }
  /// Records a write that was made for the device elsewhere: by a ring, a back end or a peer.
  void note(IovaRange range) const {
    if (WriteLog* const log = log_.load(std::memory_order_relaxed)) [[unlikely]]
      log->written(range);
  }

 private:
  std::atomic<WriteLog*> log_{nullptr};
};

}  // namespace outboard::memory
