#pragma once

#include <optional>
#include <string>

#include <outboard/base/result.hpp>

namespace outboard::command {

/// Lines of text from a descriptor, which stays the caller's. One thread.
class LineReader {
 public:
  explicit LineReader(int fd) : fd_(fd) {}

  /// Whether next() returns without waiting.
  bool ready() const;
  /// The next line, without its end; nullopt: there is no more. ECANCELED: `stop` has become readable. E2BIG: a line of
  /// more than 64 KiB.
  Result<std::optional<std::string>> next(int stop);

 private:
  std::optional<std::string> take_line();

  int fd_;
  bool ended_ = false;
  std::string text_;  // read, and not taken yet
};

}  // namespace outboard::command
