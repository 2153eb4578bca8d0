#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string_view>

#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>

namespace outboard {

/// Writes lines to a descriptor without making the caller wait for their reader: a log must not stop the device. A thread does
/// the writing, since poll() does not tell whether a write would block: a terminal is writable if it has room for a part of a
/// line, another writer of a pipe may be faster, and a file on storage that hangs is always writable.
///
/// Limits: at most 4 MiB of lines wait, besides those that the thread is writing. Further lines are dropped, and a line says
/// how many. The constructor reserves the memory (8 MiB; only what is used is touched); no other call allocates any. Lines that
/// the kernel refuses to write (a full disk, a closed pipe) are lost.
///
/// Threads: any. The writing thread has all signals blocked. If it cannot be started, the caller writes lines for a pipe, a
/// socket or a file when poll() reports room; lines for a terminal wait; and the start is tried again, at most once a second.
///
/// fork(): the child does not have the thread. It writes each line at once, or drops it if poll() reports no room; a terminal
/// with room for only a part of the line makes the child wait for its reader.
class LineWriter {
 public:
  /// Called on the writing thread (without one: on the caller's), with the error of write(2).
  using Failed = std::function<void(const Error&)>;
  /// How long the end of the process waits for the remaining lines.
  static constexpr Duration end_timeout = std::chrono::seconds(1);
  /// How long a line waits that may be the last one before a crash.
  static constexpr Duration a_moment = std::chrono::milliseconds(5);

  /// std::bad_alloc: there is no memory for the waiting lines.
  explicit LineWriter(UniqueFd fd, Failed failed = {});
  /// Flushes, at most for end_timeout. A write that still blocks then keeps the descriptor open.
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;

  /// The writer of descriptor 2. The first call creates it; make that call before the first fork(). exit() and quick_exit()
  /// flush it, at most for end_timeout; so does each line that is written after that. A crash, abort(), _exit(), exec() and
  /// SIGKILL lose the waiting lines.
  static LineWriter& of_stderr();
  /// Flushes of_stderr(), if it exists. Call it before writing to stderr in another way, and before _exit() and exec().
  static void flush_stderr();

  /// `line` ends with a newline. It is cut after 4096 bytes, the most that a pipe takes in one piece.
  void write(std::string_view line);
  /// Waits until all lines are written. False: some are not, after `limit`.
  bool flush(Duration limit);
  /// The same for a caller that must not be slowed down: waits at most for `limit`, and in the long run at most for a twentieth
  /// of the time. After a wait that timed out it does not wait again until all lines have been written.
  bool flush_briefly(Duration limit = a_moment);

 private:
  struct State;
  static void end_stderr();
  void start();
  std::shared_ptr<State> state_;
};

}  // namespace outboard
