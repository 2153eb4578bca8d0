#pragma once

#include <functional>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/pci/handle.hpp>

namespace outboard::pci {

/// The eventfds that tell a handle of its function's events, behind one descriptor that a loop can watch. What handles that
/// are told by eventfd are made with. One thread.
class EventSet {
 public:
  EventSet() = default;

  /// Makes an eventfd that means `event`. The reference is good until the next add().
  Result<const EventFd*> add(Event event);
  bool empty() const { return sources_.empty(); }
  /// Readable while one of them is signalled; -1 while there is none.
  int fd() const { return poll_.get(); }
  /// What has been signalled since the last time, each event once.
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
