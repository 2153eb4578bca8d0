#pragma once

#include <sys/types.h>

#include <utility>

#include <outboard/base/result.hpp>

namespace outboard {

/// Marks the calling thread, and each thread and io_uring worker that it starts afterwards, as an I/O flusher (prctl
/// PR_SET_IO_FLUSHER, Linux 5.6). While memory is short, the kernel then does not make the thread wait until other dirty pages
/// are written. A process that serves a disk to its own kernel needs that: those dirty pages may be pages of the disk that it
/// serves, which only this process can write.
///
/// Threads: created and destroyed on one thread. Destroyed on another thread, it leaves the mark set.
class IoFlusher {
 public:
  /// EPERM: no CAP_SYS_RESOURCE; EINVAL: the kernel does not have it.
  static Result<IoFlusher> begin();
  ~IoFlusher();
  /// Whether it was created on the calling thread.
  bool is_of_this_thread() const;
  IoFlusher(IoFlusher&& other) noexcept : thread_(other.thread_), sets_(std::exchange(other.sets_, false)) {}
  IoFlusher& operator=(IoFlusher&&) = delete;

 private:
  IoFlusher(pid_t thread, bool sets) : thread_(thread), sets_(sets) {}
  pid_t thread_;
  bool sets_;  ///< false: the thread was marked already
};

}  // namespace outboard
