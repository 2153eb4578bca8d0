#pragma once

#include <functional>
#include <memory>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/pci/function.hpp>

namespace outboard::pci {

/// Keeps a Function, and carries calls to the loop it lives on. What LocalHandle stands on; one thread at a time.
class FunctionHost {
 public:
  using Call = std::move_only_function<void(Function&)>;
  using Start = std::move_only_function<void(Function&, Function::Completion)>;

  virtual ~FunctionHost() = default;

  /// Runs `call` on the function's loop and returns when it has. EDEADLK where that would wait for itself.
  virtual Status run(Call call) = 0;
  /// Runs `start` on the function's loop and returns what its completion is told. ETIMEDOUT: it has not been told within the
  /// host's limit. EBUSY: it has not been told since such a time-out; `start` does not run then.
  virtual Status await(Start start) = 0;
  /// Destroys the function. run() and await() fail with ENODEV from then on.
  virtual void end() = 0;
};

/// How long await() waits unless told otherwise.
constexpr Duration completion_limit = std::chrono::seconds(30);

/// A thread and a reactor for the function, which is made on that thread.
Result<std::unique_ptr<FunctionHost>> host_on_thread(FunctionFactory factory, Log log, Duration spin,
                                                     Duration limit = completion_limit);
/// The caller's thread; `pump` runs the function's loop until it is idle.
std::unique_ptr<FunctionHost> host_pumped(std::unique_ptr<Function> function, Loop::Task pump,
                                          Duration limit = completion_limit);

}  // namespace outboard::pci
