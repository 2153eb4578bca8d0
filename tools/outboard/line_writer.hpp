#pragma once

#include <cstdint>
#include <string_view>

#include <outboard/base/bytes.hpp>

namespace outboard::command {

/// Writes lines to a descriptor without ever waiting for whoever reads it: a log must not stop the device that it is about. A
/// line that finds no room (a pipe that nobody empties, a terminal that was stopped) is dropped, and the next one that finds
/// room says how many there were. One thread at a time. (A file on a disk is always said to have room.)
class LineWriter {
 public:
  /// The descriptor is not owned.
  explicit LineWriter(int fd) : fd_(fd) {}

  /// `line` ends with a newline. One that is longer than a pipe takes whole (4096 bytes) is cut.
  void write(std::string_view line);

 private:
  int fd_;
  std::uint64_t dropped_ = 0;
};

}  // namespace outboard::command
