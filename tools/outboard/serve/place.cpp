#include <tools/outboard/serve/place.hpp>

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include <outboard/base/internal/line_writer.hpp>
#include <outboard/storage/ending.hpp>
#include <outboard/targets/target.hpp>
#include <tools/outboard/end_verdict.hpp>
#include <tools/outboard/serve/hangup_signal.hpp>
#include <tools/outboard/usage_error.hpp>

namespace outboard::command {

namespace {

/// sd_listen_fds(3): the service manager passes sockets, from descriptor 3 on, to the process that LISTEN_PID names.
Result<UniqueFd> activated_socket() {
  static constexpr int first = 3;
  const char* pid = std::getenv("LISTEN_PID");
  const char* count = std::getenv("LISTEN_FDS");
  if (pid == nullptr || count == nullptr || std::string_view(pid) != std::to_string(getpid())) return UniqueFd();
  if (std::string_view(count) != "1")
    return Error(EINVAL, fmt::format("the service manager passes {} sockets", count)).on("LISTEN_FDS").cure("pass one");
  unsetenv("LISTEN_PID");
  unsetenv("LISTEN_FDS");
  return UniqueFd(first);
}

std::string what_is_served(std::string_view name, const targets::Service& service) {
  const std::string what = service.description();
  return fmt::format("{}{}{}", name, what.empty() ? "" : " ", what);
}

/// stdout. A reader that does not read does not delay the service.
Result<std::unique_ptr<LineWriter>> nonblocking_stdout(const Log& log) {
  UniqueFd copy(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (!copy) return Error::from_errno("duplicating").on("standard output");
  return std::make_unique<LineWriter>(
      std::move(copy), [log](const Error& error) { log.warning("{}", Error(error).on("standard output").message()); });
}

/// Tells whoever started the server: a line on stdout, and one on the descriptor of --ready-fd.
Status tell_ready(int ready_fd, std::string_view name, const targets::Service& service, LineWriter& out) {
  out.write(fmt::format("serving {} on {}\n", what_is_served(name, service), service.where()));
  if (ready_fd < 0) return {};
  const UniqueFd ready(ready_fd);
  pollfd room{ready.get(), POLLOUT, 0};
  const bool is_full = poll(&room, 1, 0) == 0;  // writing would wait for the reader
  if (is_full) errno = EAGAIN;
  if (is_full || write(ready.get(), "ready\n", 6) != 6)
    return Error::from_errno("writing").on(fmt::format("--ready-fd {}", ready_fd));
  return {};
}

using Verdict = StopSignal::Verdict;

/// Ends the process if its loop is stuck in a system call when a signal comes. Otherwise the process would never end.
void bound_the_service(StopSignal& stop, Duration timeout, std::string_view name, const targets::Service& service,
                       const Log& log) {
  const auto say = [text = what_is_served(name, service), log] {
    log.error("{}: ending although the loop is stuck in a system call and has not handled the signal", text);
  };
  stop.bound_end(
      {.start = StopSignal::Start::at_signal, .timeout = timeout, .verdict = [] { return Verdict::end; }, .say = say});
}

/// Bounds the end of the service. Requests to the storage use memory of this process, so the end waits for them, and storage
/// that hangs would keep the process for ever.
void bound_the_end(StopSignal& stop, Duration timeout, std::string_view name, const targets::Service& service,
                   const Log& log) {
  const std::string text = what_is_served(name, service);
  const auto verdict = [text, log, verdict = EndVerdict(), told = false]() mutable {
    const Verdict one = verdict();
    if (one == Verdict::wait && !std::exchange(told, true))
      log.warning("{}: all requests are answered; waiting for the kernel to write back its cache", text);
    return one;
  };
  const auto say = [text, log] {
    if (storage::ending() == storage::Ending::requests) {
      log.error(
          "{}: ending although the storage has not answered all requests. The kernel still carries them out; the lock on "
          "the image makes the next server wait until they have ended",
          text);
    } else {
      log.error("{}: ending although a thread has not ended", text);
    }
  };
  stop.bound_end({.start = StopSignal::Start::now, .timeout = timeout, .verdict = verdict, .say = say});
}

/// Calls StopSignal::show_life() from the loop, at intervals.
class Pulse {
 public:
  Pulse(Loop& loop, StopSignal& stop, Duration interval) : loop_(loop), stop_(stop), interval_(interval) {}
  void start() {
    stop_.show_life();
    timer_ = loop_.after(interval_, [this] { start(); });
  }

 private:
  Loop& loop_;
  StopSignal& stop_;
  Duration interval_;
  Registration timer_;
};

/// A number as it is typed for --allow-uid and --allow-gid.
std::optional<std::uint32_t> as_id(const std::string& text) {
  std::uint32_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  // The last one means "no id" to system calls.
  if (error != std::errc() || end != text.data() + text.size() || id == UINT32_MAX) return std::nullopt;
  return id;
}

Status allow_user(const std::string& text, std::vector<uid_t>& users) {
  if (const auto id = as_id(text)) {
    users.push_back(*id);
    return {};
  }
  const passwd* const user = ::getpwnam(text.c_str());
  if (user == nullptr) return Error(EINVAL, fmt::format("there is no user {}", text));
  users.push_back(user->pw_uid);
  return {};
}

Status allow_group(const std::string& text, std::vector<gid_t>& groups) {
  if (const auto id = as_id(text)) {
    groups.push_back(*id);
    return {};
  }
  const group* const found = ::getgrnam(text.c_str());
  if (found == nullptr) return Error(EINVAL, fmt::format("there is no group {}", text));
  groups.push_back(found->gr_gid);
  return {};
}

void look_again(targets::Service& service, const Log& log) {
  if (const auto done = service.reload()) {
    log.info("SIGHUP: reading the size of the storage again");
  } else {
    log.error("SIGHUP: {}; the device is unchanged", done.error().message());
  }
}

}  // namespace

void ServePlace::add_to(const Verb& verb, const std::string& what) {
  add_others_to(verb, verb.add_option("--listen", listener, what).value_name("LISTENER"));
}

void ServePlace::add_convention_to(const Verb& verb) {
  const auto listen = [this](const std::string& path) -> Status {
    listener = "vfio-user:" + path;
    return {};
  };
  add_others_to(verb, verb.add_option("--socket-path", listen, "UNIX socket to serve it on").value_name("PATH"));
}

void ServePlace::add_others_to(const Verb& verb, const Option& listen) {
  static constexpr int max_fd = 1 << 20;
  const Option socket = verb.add_option("--fd", fd, "serve vfio-user on file descriptor N, which is a listening socket")
                            .value_name("N")
                            .range(0, max_fd)
                            .excludes(listen);
  const Option ready =
      verb.add_option("--ready-fd", ready_fd, "write a line to file descriptor N when clients can connect")
          .value_name("N")
          .range(0, max_fd);
  const Option wait = verb.add_seconds(
      "--unplug-wait", unplug_timeout_seconds, 0,
      "on SIGTERM ask the vfio-user client to release the device, and wait so long (default 0; QEMU ignores it)");
  const Option user = verb.add_option(
      "--allow-uid", [this](const std::string& text) { return allow_user(text, allowed.users); },
      "let this user connect, by number or name, and no others; may be repeated");
  const Option group_members = verb.add_option(
      "--allow-gid", [this](const std::string& text) { return allow_group(text, allowed.groups); },
      "let members of this group connect; may be repeated");
  user.value_name("USER");
  group_members.value_name("GROUP");
  for (const Option& option : {listen, socket, ready, wait, user, group_members}) option.group("Where");
}

Result<UniqueFd> ServePlace::socket(const std::string& example) const {
  if (fd >= 0) {
    if (fcntl(fd, F_GETFD) < 0) return Error(EBADF, fmt::format("descriptor {} is not open", fd)).on("--fd");
    return UniqueFd(fd);
  }
  if (listener.empty()) {
    OUTBOARD_TRY(UniqueFd activated, activated_socket());
    if (!activated) return usage_error("no listener is given, and no --fd", "for example: " + example);
    return activated;
  }
  const auto address = targets::parse_address(listener, "listener", targets::listener_schemes());
  if (!address) return as_usage_error(address.error());
  if (address->scheme != "vfio-user" && (!allowed.users.empty() || !allowed.groups.empty()))
    return usage_error(fmt::format(
        "--allow-uid, --allow-gid: these options are for vfio-user:PATH, and the listener is {}", listener));
  if (address->scheme != "vfio-user" && unplug_timeout_seconds != 0)
    return usage_error(
        fmt::format("--unplug-wait: this option is for vfio-user:PATH, and the listener is {}", listener),
        "leave it out, or use --listen vfio-user:PATH");
  return UniqueFd();
}

targets::ServeOptions ServePlace::options(const Context& context, UniqueFd socket) const {
  const std::chrono::duration<double> wait(unplug_timeout_seconds);
  return {.log = context.log,
          .socket = std::move(socket),
          .unplug_timeout = std::chrono::duration_cast<Duration>(wait),
          .allowed = allowed};
}

// An open() of the image that hangs would keep the process for ever.
void ServePlace::bound_start(std::string_view name, Context& context) const {
  const auto say = [name = std::string(name), log = context.log] {
    log.error("{}: ending although the start is stuck in a system call; the storage may hang", name);
  };
  bound_end(context.stop, StopSignal::Start::at_signal, end_timeout, say);
}

Result<Exit> ServePlace::run(targets::Service& service, std::string_view name, Context& context) const {
  Registration watch;
  std::optional<Pulse> pulse(std::in_place, service.loop(), context.stop, end_timeout / 10);
  OUTBOARD_TRY(watch, service.loop().watch(context.stop.fd(), Ready::readable, [&](Ready) {
    watch.reset();  // it stays readable while the requests in flight are finished
    pulse->start();
    service.stop();
  }));
  OUTBOARD_TRY(const auto hangup, HangupSignal::create());
  OUTBOARD_TRY(const auto reload,
               service.loop().watch_eventfd(hangup->event(), [&] { look_again(service, context.log); }));
  bound_the_service(context.stop, end_timeout, name, service, context.log);
  OUTBOARD_TRY(const auto out, nonblocking_stdout(context.log));
  const Status served = service.run([&] { return tell_ready(ready_fd, name, service, *out); });
  pulse.reset();
  bound_the_end(context.stop, end_timeout, name, service, context.log);
  OUTBOARD_CHECK(served);
  return Exit::done;
}

}  // namespace outboard::command
