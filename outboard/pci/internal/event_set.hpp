#pragma once

#include <functional>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/pci/handle.hpp>

namespace outboard::pci {

/// The eventfds that report a function's events to its handle, behind one descriptor that a loop can watch. One thread.
class EventSet {
 public:
  EventSet() = default;

  /// Makes an eventfd for `event`. The reference is valid until the next add().
  Result<const EventFd*> add(Event event);
  bool empty() const { return sources_.empty(); }
  /// Readable while one of them is signalled; -1: there is none.
  int fd() const { return poll_.get(); }
  /// The events that were signalled since the last call, each once.
  std::vector<Event> take();

 private:
  struct Source {
    Event event;
    EventFd eventfd;
  };
  UniqueFd poll_;
  std::vector<Source> sources_;
};

}  // namespace outboard::pci
