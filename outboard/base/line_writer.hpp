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
/// a part of it, and another writer of a pipe may be faster. Up to 64 KiB of lines wait; further ones are dropped, and a line says
/// how many. Where no thread can be started, and in the child of a fork(), each line is written if poll() says that there is room.
///
/// write() and flush() may be called from any thread. The writing thread takes no signals.
class LineWriter {
 public:
  /// Called on the writing thread, with what write(2) said.
  using Failed = std::function<void(const Error&)>;
  /// How long the end of the process waits for the lines that are left.
  static constexpr Duration end_patience = std::chrono::seconds(1);

  explicit LineWriter(UniqueFd fd, Failed failed = {});
  /// Flushes for end_patience at most. A write that still waits then keeps the descriptor.
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;

  /// The one of descriptor 2, flushed by exit() for end_patience at most. Lines that wait when the process is killed are lost.
  static LineWriter& of_stderr();
  /// For whoever writes to stderr in another way, or calls _exit(): flushes of_stderr(), where that has been used.
  static void flush_stderr();

  /// `line` ends with a newline. One of more than 4096 bytes, which is what a pipe takes in one piece, is cut.
  void write(std::string_view line);
  /// Waits until all lines are written. False: some are not, after `limit`.
  bool flush(Duration limit);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace outboard
