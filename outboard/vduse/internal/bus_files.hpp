#pragma once

#include <string>
#include <string_view>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>

namespace outboard::vduse {

/// The first line of an attribute; empty when it cannot be read.
std::string read_attribute(const std::string& path);

/// The time in which the bus does not probe what is added to it. One process at a time (a lock in `run`); ends with
/// restore(), or when destroyed. A process that dies in between leaves a mark beside the lock, and the next one repairs it.
class QuietBus {
 public:
  /// Whether this process may do it at all: `bus` is /sys/bus/vdpa.
  static bool possible(const std::string& bus);

  /// Waits while another process attaches. What a dead one has left is put right first.
  static Result<QuietBus> begin(const std::string& bus, const std::string& run, const Log& log);
  ~QuietBus();
  QuietBus(QuietBus&&) noexcept = default;
  QuietBus& operator=(QuietBus&&) = delete;

  /// Puts autoprobe back to what it was. When it fails the mark stays.
  Status restore();

 private:
  QuietBus(UniqueFd lock, std::string autoprobe, std::string mark)
      : lock_(std::move(lock)), autoprobe_(std::move(autoprobe)), mark_(std::move(mark)) {}

  UniqueFd lock_;
  std::string autoprobe_;
  std::string mark_;
  bool changed_ = false;
};

}  // namespace outboard::vduse
