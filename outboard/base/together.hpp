#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include <outboard/base/result.hpp>

namespace outboard {

/// Calls `done` once `parts` have been counted off by one(), with the first error that there was. Kept by those who count,
/// in a shared_ptr; who starts the parts counts as one too, so that `done` does not come before all of them have begun.
/// One thread.
class Together {
 public:
  using Done = std::move_only_function<void(Status)>;
  static std::shared_ptr<Together> of(std::size_t parts, Done done) {
    return std::shared_ptr<Together>(new Together(parts, std::move(done)));
  }

  void one(const Status& ended = {}) {
    if (!ended && status_) status_ = ended;
    if (--left_ == 0) done_(std::move(status_));
  }

 private:
  Together(std::size_t parts, Done done) : left_(parts), done_(std::move(done)) {}

  std::size_t left_;
  Done done_;
  Status status_{};
};

}  // namespace outboard
