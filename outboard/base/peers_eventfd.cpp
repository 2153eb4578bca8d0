#include <outboard/base/peers_eventfd.hpp>

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <ctime>
#include <utility>

namespace outboard {
namespace {

/// How many operations may have ended and not been asked for. Each counts against fs.aio-max-nr, the machine's.
constexpr unsigned max_ended = 128;
constexpr unsigned take_interval = 64;
constexpr int max_attempts = 4;

/// One for the process. The kernel ends it with the process.
AsyncSignal& async_signal() {
  static auto* const only = new AsyncSignal();
  return *only;
}

/// By write(2), where there is room.
bool write_if_room(int fd) {
  pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
  ::poll(&room, 1, 0);
  if (fd < 0 || (room.revents & POLLNVAL) != 0) return false;
  if ((room.revents & POLLOUT) == 0) return true;  // saturated
  const std::uint64_t one = 1;
  return ::write(fd, &one, sizeof one) >= 0 || errno != EBADF;
}

}  // namespace

AsyncSignal::AsyncSignal() : file_(::open("/dev/null", O_RDONLY | O_CLOEXEC)), process_(::getpid()) {
  if (!file_ || ::syscall(SYS_io_setup, max_ended, &context_) != 0) context_ = 0;
  if (context_ != 0 && !works()) ::syscall(SYS_io_destroy, std::exchange(context_, 0));
}

AsyncSignal::~AsyncSignal() {
  if (context_ != 0) ::syscall(SYS_io_destroy, context_);
}

/// A filter may allow some of the calls and deny others.
bool AsyncSignal::works() {
  const auto event = EventFd::create();
  return event && submit(event->get()) == 0 && event->drain() == 1 && take_ended() == 1;
}

int AsyncSignal::submit(int fd) const {
  iocb operation{};
  operation.aio_lio_opcode = IOCB_CMD_PREAD;
  operation.aio_fildes = static_cast<std::uint32_t>(file_.get());
  operation.aio_flags = IOCB_FLAG_RESFD;
  operation.aio_resfd = static_cast<std::uint32_t>(fd);
  iocb* list = &operation;
  return ::syscall(SYS_io_submit, context_, 1L, &list) == 1 ? 0 : errno;
}

/// What has ended takes room in the context until somebody asks for it.
long AsyncSignal::take_ended() const {
  std::array<io_event, max_ended> events;
  timespec at_once{};
  return ::syscall(SYS_io_getevents, context_, 0L, static_cast<long>(events.size()), events.data(), &at_once);
}

std::optional<bool> AsyncSignal::signal(int fd) {
  if (context_ == 0) return std::nullopt;
  if (submitted_.fetch_add(1, std::memory_order_relaxed) % take_interval == 0) take_ended();
  int error = submit(fd);
  for (int attempt = 1; error == EAGAIN && attempt < max_attempts; ++attempt) {
    take_ended();  // other threads have filled it meanwhile
    error = submit(fd);
  }
  if (error == 0) return true;
  if (error == EBADF) return false;
  // No eventfd; or no context, in a child made by fork().
  if (error == EINVAL && ::getpid() == process_) return true;
  return std::nullopt;
}

bool signal_peers_eventfd(int fd) {
  const auto done = async_signal().signal(fd);
  return done ? *done : write_if_room(fd);
}

}  // namespace outboard
