#include <outboard/pci/internal/event_set.hpp>

#include <sys/epoll.h>

namespace outboard::pci {

Result<const EventFd*> EventSet::add(Event event) {
  if (!poll_) poll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!poll_) return Error::from_errno("making a descriptor for events");
  OUTBOARD_TRY(EventFd eventfd, EventFd::create());
  epoll_event readable{.events = EPOLLIN, .data = {}};
  if (::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, eventfd.get(), &readable) < 0) {
    return Error::from_errno("watching for events");
  }
  sources_.push_back({event, std::move(eventfd)});
  return &sources_.back().eventfd;
}

std::vector<Event> EventSet::take() {
  std::vector<Event> events;
  for (const Source& source : sources_) {
    if (source.eventfd.drain() != 0) events.push_back(source.event);
  }
  return events;
}

}  // namespace outboard::pci
