#pragma once

#include <memory>

#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>

namespace outboard::command {

/// Receives SIGHUP, which asks to read the configuration again, as long as it lives. One at a time.
class HangupSignal {
 public:
  static Result<std::unique_ptr<HangupSignal>> create();
  ~HangupSignal();
  HangupSignal(const HangupSignal&) = delete;
  HangupSignal& operator=(const HangupSignal&) = delete;

  /// Signalled by each SIGHUP.
  const EventFd& event() const { return event_; }

 private:
  explicit HangupSignal(EventFd event) : event_(std::move(event)) {}

  EventFd event_;
};

}  // namespace outboard::command
