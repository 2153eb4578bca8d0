#pragma once

#include <memory>
#include <thread>

#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>

namespace outboard::testing {

/// A reactor that runs on a thread of its own, as long as the object is there.
class LoopThread {
 public:
  LoopThread() : reactor_(*Reactor::create()), thread_([this] { EXPECT_TRUE(reactor_->run()); }) {}
  ~LoopThread() {
    reactor_->stop();
    thread_.join();
  }
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;

  Reactor& loop() { return *reactor_; }

 private:
  std::unique_ptr<Reactor> reactor_;
  std::thread thread_;
};

}  // namespace outboard::testing
