#include <outboard/base/internal/peers_eventfd.hpp>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
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

SharedAsyncSignal& of_this_process() {
  static auto* const only = new SharedAsyncSignal();  // there is a thread that signals until the very end
  return *only;
}

Error denied(Error error) {
  if (error.code() != EPERM && error.code() != ENOSYS) return error;
  return std::move(error).cure(
      "have the filter of system calls allow memfd_create, io_setup, io_submit and io_getevents");
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

Result<std::unique_ptr<AsyncSignal>> AsyncSignal::create() {
  UniqueFd file(::memfd_create("outboard-signal", MFD_CLOEXEC));
  if (!file) return denied(Error::from_errno("memfd_create"));
  aio_context_t context = 0;
  if (::syscall(SYS_io_setup, max_ended, &context) != 0) {
    if (errno != EAGAIN) return denied(Error::from_errno("io_setup"));
    return Error(EAGAIN, "other processes use all of fs.aio-max-nr").cure("raise it: sysctl -w fs.aio-max-nr=N");
  }
  std::unique_ptr<AsyncSignal> made(new AsyncSignal(std::move(file), context));
  if (const Status works = made->try_out(); !works) return denied(works.error());
  return made;
}

AsyncSignal::AsyncSignal(UniqueFd file, aio_context_t context)
    : file_(std::move(file)), context_(context), process_(::getpid()) {}

AsyncSignal::~AsyncSignal() { ::syscall(SYS_io_destroy, context_); }

/// A filter may allow some of the calls and deny others.
Status AsyncSignal::try_out() {
  OUTBOARD_TRY(const auto event, EventFd::create());
  if (const int error = submit(event.get()); error != 0) return Error(error).while_doing("io_submit");
  if (event.drain() != 1) return Error(ENOTSUP, "io_submit signals no eventfd");
  if (take_ended() != 1) return Error::from_errno("io_getevents");
  return {};
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

SharedAsyncSignal::SharedAsyncSignal(Create create, Clock& clock) : create_(std::move(create)), clock_(clock) {}

AsyncSignal* SharedAsyncSignal::get() {
  AsyncSignal* const made = made_.load(std::memory_order_acquire);
  if (made != nullptr) [[likely]]
    return made;
  if (clock_.now() < next_attempt_.load(std::memory_order_relaxed) || !make()) return nullptr;
  return made_.load(std::memory_order_acquire);
}

Status SharedAsyncSignal::make() {
  const std::lock_guard lock(mutex_);
  if (owned_) return {};
  next_attempt_.store(clock_.now() + pause_between_attempts, std::memory_order_relaxed);
  OUTBOARD_TRY(owned_, create_());
  made_.store(owned_.get(), std::memory_order_release);
  return {};
}

bool signal_peers_eventfd(int fd) {
  AsyncSignal* const async = of_this_process().get();
  const auto done = async != nullptr ? async->signal(fd) : std::nullopt;
  return done ? *done : write_if_room(fd);
}

Status prepare_to_signal_peers() { return of_this_process().make(); }

}  // namespace outboard
