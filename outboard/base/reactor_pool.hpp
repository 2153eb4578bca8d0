#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/base/reactor.hpp>

namespace outboard {

/// Some reactors, each run by a thread of its own. What lives on their loops goes before the pool.
class ReactorPool {
 public:
  /// Whatever making a reactor or a thread says. `name` is what the threads are called, with a number; 12 bytes are shown.
  /// `log` is told, by its thread, of a loop that has ended with an error.
  static Result<std::unique_ptr<ReactorPool>> create(unsigned threads, const std::string& name,
                                                     const Reactor::Options& options, const Log& log = {});
  /// Stops the loops and joins the threads.
  ~ReactorPool();
  ReactorPool(const ReactorPool&) = delete;
  ReactorPool& operator=(const ReactorPool&) = delete;

  /// One loop for each of `count` users, dealt out in turn.
  std::vector<Loop*> loops(std::size_t count) const;

 private:
  ReactorPool() = default;
  struct Member {
    std::unique_ptr<Reactor> reactor;
    std::thread thread;
  };
  std::vector<Member> members_;
};

}  // namespace outboard
