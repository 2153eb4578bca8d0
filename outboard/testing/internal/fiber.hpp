#pragma once

#include <functional>
#include <memory>

namespace outboard::testing {

/// A stack of its own for a simulated thread: the code on it runs until it switches back, and goes on there when it is switched
/// to again. All fibers of a simulation run on one thread of the machine.
class Fiber {
 public:
  /// `body` must not throw. It runs at the first resume().
  explicit Fiber(std::move_only_function<void()> body);
  /// The body must have ended, or never have begun.
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Runs the body until its next suspend(), or its end. Not from inside a fiber.
  void resume();
  /// On the fiber: goes back to resume().
  void suspend();
  bool ended() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace outboard::testing
