#pragma once

#include <utility>

#include <outboard/devices/blk/driver_io.hpp>

namespace outboard::blk {

/// Operations that wait for room in the queue, in order; linked by themselves, so it costs no allocation.
class WaitingIos {
 public:
  bool empty() const { return first_ == nullptr; }

  void push_back(Io& io) {
    io.progress.next_waiting_ = nullptr;
    (empty() ? first_ : last_->progress.next_waiting_) = &io;
    last_ = &io;
  }
  void push_front(Io& io) {
    if (empty()) last_ = &io;
    io.progress.next_waiting_ = std::exchange(first_, &io);
  }
  /// Null when there is none.
  Io* pop_front() {
    Io* io = first_;
    if (io != nullptr) first_ = io->progress.next_waiting_;
    return io;
  }
  /// Nothing happens where it does not wait.
  void remove(Io& io) {
    Io* before = nullptr;
    Io* at = first_;
    while (at != nullptr && at != &io) before = std::exchange(at, at->progress.next_waiting_);
    if (at == nullptr) return;
    (before == nullptr ? first_ : before->progress.next_waiting_) = io.progress.next_waiting_;
    if (last_ == &io) last_ = before;
  }

 private:
  Io* first_ = nullptr;
  Io* last_ = nullptr;  // while not empty
};

}  // namespace outboard::blk
