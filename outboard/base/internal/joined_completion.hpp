#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include <outboard/base/result.hpp>

namespace outboard {

/// Joins the completions of several operations into one: calls `done` when part_done() has been called `parts` times, with the
/// first error among them. Each operation holds it by a shared_ptr. The caller that starts the operations counts as a part, so
/// that `done` is not called before all of them have started. One thread.
class JoinedCompletion {
 public:
  using Done = std::move_only_function<void(Status)>;
  static std::shared_ptr<JoinedCompletion> of(std::size_t parts, Done done) {
    return std::shared_ptr<JoinedCompletion>(new JoinedCompletion(parts, std::move(done)));
  }

  void part_done(const Status& result = {}) {
    if (!result && status_) status_ = result;
    if (--left_ == 0) done_(std::move(status_));
  }

 private:
  JoinedCompletion(std::size_t parts, Done done) : left_(parts), done_(std::move(done)) {}

  std::size_t left_;
  Done done_;
  Status status_{};
};

}  // namespace outboard
