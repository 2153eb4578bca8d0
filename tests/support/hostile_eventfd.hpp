#pragma once

#include <functional>

#include <outboard/base/fd.hpp>

namespace outboard::testing {

/// An eventfd whose peer has made it saturated and, after each give(), blocking: a write(2) to it waits until it is read.
class HostileEventFd {
 public:
  HostileEventFd();

  /// A descriptor of it as a peer sends one.
  UniqueFd descriptor() const { return theirs_.duplicate().value(); }
  /// The same, adopted.
  EventFd give() const;
  /// Takes O_NONBLOCK off again.
  void make_blocking() const;
  /// Calls what signals it. False when that had to be freed, by reading the counter, since it did not return.
  bool does_not_block(const std::function<void()>& call) const;

 private:
  UniqueFd theirs_;
};

}  // namespace outboard::testing
