#pragma once

#include <functional>
#include <memory>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/pci/function.hpp>

namespace outboard::pci {

/// Owns a Function, and makes calls on its loop. For LocalHandle; one thread at a time.
class FunctionHost {
 public:
  using Call = std::move_only_function<void(Function&)>;
  using Start = std::move_only_function<void(Function&, Function::Completion)>;

  virtual ~FunctionHost() = default;

  /// Runs `call` on the function's loop and returns when it has ended. EDEADLK: the call would wait for itself.
  virtual Status run(Call call) = 0;
  /// Runs `start` on the function's loop and returns the result of its completion. ETIMEDOUT: the completion was not called
  /// within the host's timeout. EBUSY: an earlier completion that timed out is still pending; `start` does not run.
  virtual Status await(Start start) = 0;
  /// Destroys the function. run() and await() fail with ENODEV from then on.
  virtual void end() = 0;
};

/// The default timeout of await().
constexpr Duration completion_limit = std::chrono::seconds(30);

/// Makes a thread with a reactor, and the function on that thread.
Result<std::unique_ptr<FunctionHost>> host_on_thread(FunctionFactory factory, Log log, Duration spin,
                                                     Duration limit = completion_limit);
/// Runs the function on the caller's thread; `pump` runs its loop until it is idle.
std::unique_ptr<FunctionHost> host_pumped(std::unique_ptr<Function> function, Loop::Task pump,
                                          Duration limit = completion_limit);

}  // namespace outboard::pci
