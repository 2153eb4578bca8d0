#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include <outboard/base/loop.hpp>

namespace outboard::command {

/// A progress line on the terminal, after one second. Nothing if stderr is not a terminal. The line is removed at the
/// end. One thread.
class Progress {
 public:
  /// `total`: all bytes; 0: unknown. `to`: the terminal, if it is one.
  Progress(std::string what, std::uint64_t total, const Clock& clock = Clock::system(), std::FILE* to = stderr);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Reports that `bytes` are done. Cheap when called often.
  void at(std::uint64_t bytes);

 private:
  void show(std::uint64_t bytes, TimePoint now);

  const Clock& clock_;
  std::FILE* to_;
  std::string what_;
  std::uint64_t total_;
  bool terminal_;
  bool shown_ = false;
  TimePoint began_, next_;
};

}  // namespace outboard::command
