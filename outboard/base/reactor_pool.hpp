#pragma once

#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/base/reactor.hpp>

namespace outboard {

/// Reactors that each run on a thread of their own. Destroy what lives on their loops before the pool.
class ReactorPool {
 public:
  /// Errors: those of making a reactor or a thread. The threads are called `name` and a number; 12 bytes of it are shown.
  /// A loop that ends with an error logs that, on its thread.
  static Result<std::unique_ptr<ReactorPool>> create(unsigned threads, const std::string& name,
                                                     const Reactor::Options& options, const Log& log = {});
  /// Calls stop() and joins the threads. The kernel may keep a thread until what it began by io_uring has ended.
  ~ReactorPool();
  ReactorPool(const ReactorPool&) = delete;
  ReactorPool& operator=(const ReactorPool&) = delete;

  /// Stops the loops and waits until they have ended, for as long as their callbacks take. Afterwards no thread runs them, and
  /// the thread that made the pool counts as theirs: it may destroy what lives on them. Call it on that thread; a second call
  /// does nothing.
  void stop();

  /// One loop for each of `count` users, assigned in turn.
  std::vector<Loop*> loops(std::size_t count) const;

 private:
  ReactorPool() = default;
  struct Member {
    std::unique_ptr<Reactor> reactor;
    std::thread thread;
    std::future<void> ended;  ///< of the loop; the thread may take longer
  };
  std::vector<Member> members_;
};

}  // namespace outboard
