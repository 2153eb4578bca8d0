#include <outboard/vfio_user/internal/client_socket.hpp>

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>

#include <fmt/format.h>

#include <outboard/base/internal/system_calls.hpp>
#include <outboard/base/internal/wait.hpp>
#include <outboard/vfio_user/internal/socket_path.hpp>

namespace outboard::vfio_user {
namespace {

constexpr Duration min_pause = std::chrono::milliseconds(5), max_pause = std::chrono::milliseconds(250);

std::string target(const std::string& path) { return "vfio-user:" + path; }

Error connect_error(const std::string& path, int code) {
  switch (code) {
    case ENOENT:
      return Error(code, "no server is there")
          .on(target(path))
          .cure("start one: outboard serve ... --listen " + target(path));
    case ECONNREFUSED:
      return Error(code, "no server listens there: the server that made this socket has ended, or it is not a socket")
          .on(target(path))
          .cure("start a server: outboard serve ... --listen " + target(path));
    case EACCES:
      return Error(code, "no permission to connect")
          .on(target(path))
          .cure("the socket and its directory must let this user write and enter: ls -l " + path);
    case EPROTOTYPE:
      return Error(code, "this is a socket of another kind, not of a vfio-user server").on(target(path));
    case EAGAIN:
      return Error(ETIMEDOUT, "the server does not accept the connection").on(target(path));
    default:
      errno = code;
      return Error::from_errno("connecting").on(target(path));
  }
}

/// How long connect() waits for room in the server's backlog. 0 would be for ever.
void set_send_timeout(const UniqueFd& socket, Duration timeout) {
  timeout = std::max<Duration>(timeout, std::chrono::microseconds(1));
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(timeout);
  const auto rest = std::chrono::duration_cast<std::chrono::microseconds>(timeout - seconds);
  const timeval limit{.tv_sec = seconds.count(), .tv_usec = rest.count()};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

Result<UniqueFd> try_connect(const std::string& path, Duration timeout) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Error(ENAMETOOLONG, fmt::format("a socket's path has 1 to {} characters", sizeof address.sun_path - 1))
        .on(target(path));
  }
  std::ranges::copy(path, address.sun_path);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return Error::from_errno("creating a socket");
  const TimePoint end = Clock::system().now() + timeout;
  do {
    set_send_timeout(socket, end - Clock::system().now());
    const auto* const to = reinterpret_cast<const sockaddr*>(&address);
    if (system_calls().connect(socket.get(), to, sizeof address) == 0) return socket;
  } while (errno == EINTR && Clock::system().now() < end);
  return connect_error(path, errno == EINTR ? EAGAIN : errno);
}

}  // namespace

Status retry_while_starting(Duration wait, const Pause& pause, const std::function<Status()>& attempt) {
  // Time is counted by what was waited, not by a clock: the attempts themselves end at once or are final.
  Duration next = min_pause;
  while (true) {
    auto done = attempt();
    if (done || (done.error().code() != ENOENT && done.error().code() != ECONNREFUSED)) return done;
    if (wait <= Duration{0}) return done;
    const Duration time = std::min(next, wait);
    if (!pause(time)) return Error(ECANCELED, "interrupted while waiting for the server");
    wait -= time;
    next = std::min(2 * next, max_pause);
  }
}

Result<UniqueFd> connect_socket(const std::string& path, const ConnectOptions& options) {
  UniqueFd socket;
  const auto connect = [&]() -> Status {
    OUTBOARD_TRY(socket, try_connect(path, options.timeout));
    return {};
  };
  OUTBOARD_CHECK(retry_while_starting(options.wait, options.pause ? options.pause : pause_thread, connect));
  return socket;
}

std::string describe_peer(const UniqueFd& socket) {
  const auto peer = peer_of(socket);
  return peer ? peer->describe() : "somebody";
}

Error explain_refusal(const Error& error, const std::string& path, const std::string& server) {
  const auto on_target = [&](Error one) { return std::move(one).on(target(path)); };
  switch (error.code()) {
    case EBUSY: {
      const auto client = noted_client(path);
      return on_target(Error(EBUSY, "the function is driven by another client already" +
                                        (client ? ": " + *client : " (the server is " + server + ")")))
          .cure("end that client first");
    }
    case EACCES:
      return on_target(Error(EACCES, server + " does not let this user in"))
          .cure("start the server with --allow-uid or --allow-gid");
    case EPROTO:
      return on_target(Error(EPROTO, error.what() + " (" + server + ")"))
          .cure("check that a vfio-user server listens at this path");
    case ECONNRESET:
      return on_target(Error(ECONNRESET, server + " closed the connection instead of answering"))
          .cure("check that a vfio-user server listens at this path; its log says more");
    case ETIMEDOUT:
      return on_target(Error(ETIMEDOUT, server + " does not answer"))
          .cure("check that a vfio-user server listens at this path, and that it is not stopped");
    case EINVAL:
      return on_target(Error(EINVAL, server + " refused what was proposed: " + error.what()))
          .cure("client and server may speak different versions of the protocol; the server's log says more");
    default:
      return on_target(error);
  }
}

}  // namespace outboard::vfio_user
