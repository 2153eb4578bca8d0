#pragma once

#include <cerrno>
#include <fstream>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <outboard/base/result.hpp>
#include <tests/support/loop_device.hpp>

namespace outboard::testing {

/// A queue of a disk with room for so many requests, for as long as this exists.
class QueueDepth {
 public:
  static Result<QueueDepth> set(const LoopDevice& device, unsigned depth) {
    QueueDepth changed;
    changed.path_ = fmt::format("/sys/block/{}/queue/nr_requests", device.path.substr(sizeof "/dev/" - 1));
    if (!(std::ifstream(changed.path_) >> changed.before_) || !changed.write(depth))
      return Error(errno, "changing the number of requests").on(changed.path_);
    return changed;
  }
  QueueDepth() = default;
  QueueDepth(QueueDepth&& other) noexcept : path_(std::exchange(other.path_, {})), before_(other.before_) {}
  QueueDepth& operator=(QueueDepth&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(before_, other.before_);
    return *this;
  }
  ~QueueDepth() { EXPECT_TRUE(path_.empty() || write(before_)); }

 private:
  bool write(unsigned depth) const { return static_cast<bool>(std::ofstream(path_) << depth << std::flush); }

  std::string path_;
  unsigned before_ = 0;
};

}  // namespace outboard::testing
