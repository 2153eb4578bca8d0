#include <outboard/vfio_user/internal/client_events.hpp>

#include <sys/epoll.h>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
using spec::Command;

void watch(const UniqueFd& poll, int operation, int fd, std::uint32_t events) {
  epoll_event event{.events = events, .data = {}};
  ::epoll_ctl(poll.get(), operation, fd, &event);
}

std::uint32_t socket_events(const Requests& requests) {
  return requests.wants_write() ? EPOLLIN | EPOLLOUT : std::uint32_t{EPOLLIN};
}

std::uint32_t twin_events(const Requests& requests) {
  return requests.twin_wants_write() ? EPOLLIN | EPOLLOUT : std::uint32_t{EPOLLIN};
}

}  // namespace

int ClientEvents::poll_fd() {
  if (poll_) return poll_.get();
  poll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  const Requests& requests = connection_.requests();
  socket_events_ = socket_events(requests);
  watch(poll_, EPOLL_CTL_ADD, requests.fd(), socket_events_);
  watch_twin();
  for (const EventFd* eventfd : {&error_, &request_}) {
    if (eventfd->valid()) watch(poll_, EPOLL_CTL_ADD, eventfd->get(), EPOLLIN);
  }
  return poll_.get();
}

void ClientEvents::watch_twin() {
  const int twin = connection_.requests().twin_fd();
  if (twin < 0) return;
  twin_events_ = twin_events(connection_.requests());
  watch(poll_, EPOLL_CTL_ADD, twin, twin_events_);
}

void ClientEvents::update_poll() {
  const Requests& requests = connection_.requests();
  if (!poll_ || watching_ == Watching::nothing) return;
  if (requests.twin_fd() >= 0 && twin_events(requests) != twin_events_) {
    twin_events_ = twin_events(requests);
    watch(poll_, EPOLL_CTL_MOD, requests.twin_fd(), twin_events_);
  }
  if (socket_events(requests) == socket_events_) return;
  socket_events_ = socket_events(requests);
  watch(poll_, EPOLL_CTL_MOD, requests.fd(), socket_events_);
}

Status ClientEvents::bind() {
  if (watching_ != Watching::socket || connection_.gone()) return {};
  watching_ = Watching::socket_and_events;
  if (connection_.server().max_msg_fds == 0) return {};
  OUTBOARD_CHECK(bind(pci::InterruptKind::error, error_));
  return bind(pci::InterruptKind::request, request_);
}

Status ClientEvents::bind(pci::InterruptKind kind, EventFd& eventfd) {
  if (connection_.description().interrupts[static_cast<std::size_t>(kind)].count == 0) return {};
  OUTBOARD_TRY(eventfd, EventFd::create());
  start_binding(kind, eventfd);
  if (poll_) watch(poll_, EPOLL_CTL_ADD, eventfd.get(), EPOLLIN);
  return {};
}

void ClientEvents::start_binding(pci::InterruptKind kind, const EventFd& eventfd) {
  if (!eventfd.valid() || connection_.description().interrupts[static_cast<std::size_t>(kind)].count == 0) return;
  const int fd = eventfd.get();
  const abi::IrqSet set{.argsz = sizeof(abi::IrqSet),
                        .flags = abi::irq_set_flag::data_eventfd | abi::irq_set_flag::action_trigger,
                        .index = static_cast<std::uint32_t>(kind),
                        .start = 0,
                        .count = 1};
  connection_.requests().start(
      {.command = Command::device_set_irqs, .head = as_bytes_of(set), .fds = std::span<const int>(&fd, 1)},
      [&connection = connection_](const Result<Requests::Reply>& reply) {
        if (!reply) connection.options().log.info("{}: no events: {}", connection.name(), reply.error().message());
      });
}

void ClientEvents::reconnected(const Requests& before) {
  const Requests& requests = connection_.requests();
  if (poll_ && watching_ != Watching::nothing) {
    stop_watching(before);
    socket_events_ = socket_events(requests);
    watch(poll_, EPOLL_CTL_ADD, requests.fd(), socket_events_);
    watch_twin();
  }
  start_binding(pci::InterruptKind::error, error_);
  start_binding(pci::InterruptKind::request, request_);
}

bool ClientEvents::take(pci::InterruptKind kind) {
  const EventFd& eventfd = kind == pci::InterruptKind::error ? error_ : request_;
  return eventfd.valid() && eventfd.drain() != 0;
}

void ClientEvents::stop_watching(const Requests& requests) {
  for (const int fd : {requests.fd(), requests.twin_fd()}) {
    if (fd >= 0) ::epoll_ctl(poll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  }
}

bool ClientEvents::take_gone() {
  if (!connection_.gone() || watching_ == Watching::nothing) return false;
  watching_ = Watching::nothing;
  if (poll_) stop_watching(connection_.requests());
  return true;
}

}  // namespace outboard::vfio_user
