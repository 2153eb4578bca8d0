#pragma once

#include <sys/types.h>

#include <utility>

#include <outboard/base/result.hpp>

namespace outboard {

/// Makes the calling thread, and each thread and io_uring worker that it starts from then on, one that the kernel's own disk
/// writes wait for (prctl PR_SET_IO_FLUSHER, Linux 5.6): while memory is short the kernel then neither makes it write other
/// dirty pages first nor waits for writes of other disks on its behalf. A process that serves a disk of the kernel it runs on
/// needs that: the pages that are to be written before its own writes go on are those of its own disk.
///
/// Threads: begun and destroyed on one thread. Destroyed on another one it leaves the thread as it is.
class IoFlusher {
 public:
  /// EPERM: no CAP_SYS_RESOURCE; EINVAL: the kernel does not have it.
  static Result<IoFlusher> begin();
  ~IoFlusher();
  /// Whether it was begun on the calling thread.
  bool is_of_this_thread() const;
  IoFlusher(IoFlusher&& other) noexcept : thread_(other.thread_), sets_(std::exchange(other.sets_, false)) {}
  IoFlusher& operator=(IoFlusher&&) = delete;

 private:
  IoFlusher(pid_t thread, bool sets) : thread_(thread), sets_(sets) {}
  pid_t thread_;
  bool sets_;  ///< false: it was set already, or another object has this thread
};

}  // namespace outboard
