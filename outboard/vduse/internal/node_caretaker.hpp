#pragma once

#include <memory>
#include <thread>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <outboard/vduse/node.hpp>

namespace outboard::vduse {

/// Answers the messages of a device that has no server any more, on a thread of its own, so that its driver can say
/// farewell: without that each message would wait for the kernel's time-out and break the device. It serves no request: a
/// driver that waits for some goes on waiting. A driver that begins is refused at FEATURES_OK, where that is clean.
class Caretaker {
 public:
  static Result<std::unique_ptr<Caretaker>> start(std::unique_ptr<Node> node, const Log& log);
  /// Ends the thread and closes the node.
  ~Caretaker();
  Caretaker(const Caretaker&) = delete;
  Caretaker& operator=(const Caretaker&) = delete;

 private:
  Caretaker(std::unique_ptr<Node> node, EventFd end, Log log);
  void run();
  bool answer_all();

  std::unique_ptr<Node> node_;
  EventFd end_;
  Log log_;
  std::thread thread_;
};

}  // namespace outboard::vduse
