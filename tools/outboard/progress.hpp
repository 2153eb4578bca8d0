#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include <outboard/base/loop.hpp>

namespace outboard::command {

/// One line on the terminal that says how far something is, for what takes more than a second. Nothing where stderr is
/// no terminal. The line is taken away at the end. One thread.
class Progress {
 public:
  /// `total`: what makes it whole; 0: not known. `to`: the terminal, if it is one.
  Progress(std::string what, std::uint64_t total, const Clock& clock = Clock::system(), std::FILE* to = stderr);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `bytes` are done. Cheap when called often.
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
