#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string_view>

#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>

namespace outboard {

/// Writes lines to a descriptor, and never makes the caller wait for whoever reads them: a log must not stop the device that it is
/// about. A thread does the writing, since poll() does not say whether a line fits: a terminal calls itself writable with room for
/// a part of it, and another writer of a pipe may be faster. Nor does it say anything about a file on storage that hangs.
///
/// Bounds: 4 MiB of lines wait, besides those that the thread is writing. Further ones are dropped, and a line says how many. The
/// memory (8 MiB, of which only what is used is touched) is set aside in the constructor; no other call allocates any. Lines that
/// the kernel refuses to write (a full disk, a reader that has gone) are lost.
///
/// Threads: all calls may come from any thread. The writing thread takes no signals. Where it cannot be started, lines for a pipe,
/// a socket or a file are written by the caller as soon as poll() says that there is room, those for a terminal wait, and the start
/// is tried again once a second at most.
///
/// fork(): the child does not have the thread. Each of its lines is written at once, or lost where poll() says that there is no
/// room; a terminal with room for a part of the line makes the child wait for its reader.
class LineWriter {
 public:
  /// Called on the writing thread (without one: on the caller's), with what write(2) said.
  using Failed = std::function<void(const Error&)>;
  /// How long the end of the process waits for the lines that are left.
  static constexpr Duration end_patience = std::chrono::seconds(1);
  /// How long a line waits that may be the last one before a crash.
  static constexpr Duration a_moment = std::chrono::milliseconds(5);

  /// std::bad_alloc: there is no memory for the lines that are to wait.
  explicit LineWriter(UniqueFd fd, Failed failed = {});
  /// Flushes for end_patience at most. A write that still waits then keeps the descriptor.
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;

  /// The one of descriptor 2, made by the first call: before the first fork(), please. exit() and quick_exit() flush it for
  /// end_patience at most; each line that is written after that is flushed in the same way. A crash, abort(), _exit(), exec() and
  /// SIGKILL lose the lines that wait.
  static LineWriter& of_stderr();
  /// For whoever writes to stderr in another way, or calls _exit() or exec(): flushes of_stderr(), where that has been made.
  static void flush_stderr();

  /// `line` ends with a newline. One of more than 4096 bytes, which is what a pipe takes in one piece, is cut.
  void write(std::string_view line);
  /// Waits until all lines are written. False: some are not, after `limit`.
  bool flush(Duration limit);
  /// The same for a caller who must not be slowed down: waits for `limit` at most, in the long run for a twentieth of the time at
  /// most, and, once it has waited in vain, not at all until all lines have been written.
  bool flush_briefly(Duration limit = a_moment);

 private:
  struct State;
  static void end_stderr();
  void start();
  std::shared_ptr<State> state_;
};

}  // namespace outboard
