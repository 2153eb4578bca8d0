#include <tools/outboard/serve_place.hpp>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include <outboard/base/line_writer.hpp>
#include <outboard/storage/ending.hpp>
#include <outboard/targets/target.hpp>
#include <tools/outboard/end_verdict.hpp>
#include <tools/outboard/hangup_signal.hpp>

namespace outboard::command {

namespace {

/// sd_listen_fds(3): the service manager passes sockets from descriptor 3 on, to the process that LISTEN_PID names.
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

/// stdout, for a line that nobody reads: it keeps nobody from being served.
Result<std::unique_ptr<LineWriter>> patient_stdout(const Log& log) {
  UniqueFd copy(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (!copy) return Error::from_errno("duplicating").on("standard output");
  return std::make_unique<LineWriter>(
      std::move(copy), [log](const Error& error) { log.warning("{}", Error(error).on("standard output").message()); });
}

/// For whoever started us: a line on stdout, and on the descriptor that was asked for.
Status tell_ready(int ready_fd, std::string_view name, const targets::Service& service, LineWriter& out) {
  out.write(fmt::format("serving {} on {}\n", what_is_served(name, service), service.where()));
  if (ready_fd < 0) return {};
  const UniqueFd ready(ready_fd);
  pollfd room{ready.get(), POLLOUT, 0};
  const bool is_full = poll(&room, 1, 0) == 0;  // and who would read it keeps us waiting
  if (is_full) errno = EAGAIN;
  if (is_full || write(ready.get(), "ready\n", 6) != 6)
    return Error::from_errno("writing").on(fmt::format("--ready-fd {}", ready_fd));
  return {};
}

using Verdict = StopSignal::Verdict;

/// While it is served, the loop shows that it lives. One that does not come back from a system call would keep the process for
/// ever.
void bound_the_service(StopSignal& stop, Duration patience, std::string_view name, const targets::Service& service,
                       const Log& log) {
  const auto say = [text = what_is_served(name, service), log] {
    log.error("{}: ends although its loop has not come back to look at the signal", text);
  };
  stop.bound_end({.start = StopSignal::Start::at_signal,
                  .patience = patience,
                  .verdict = [] { return Verdict::end; },
                  .say = say});
}

/// What the device has with its storage uses memory of this process, so that its end waits for it. Storage that hangs would keep
/// the process for ever.
void bound_the_end(StopSignal& stop, Duration patience, std::string_view name, const targets::Service& service,
                   const Log& log) {
  const std::string text = what_is_served(name, service);
  const auto verdict = [text, log, verdict = EndVerdict(), told = false]() mutable {
    const Verdict one = verdict();
    if (one == Verdict::wait && !std::exchange(told, true))
      log.warning("{}: all requests are answered; waiting for the kernel, which writes back what it has cached", text);
    return one;
  };
  const auto say = [text, log] {
    if (storage::ending() == storage::Ending::requests) {
      log.error(
          "{}: ends although the storage has not answered all requests. The kernel still carries them out; the lock on the "
          "image keeps its next server waiting until they have ended",
          text);
    } else {
      log.error("{}: ends although a thread of it has not", text);
    }
  };
  stop.bound_end({.start = StopSignal::Start::now, .patience = patience, .verdict = verdict, .say = say});
}

/// Has the loop show that it lives, from now on.
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

void look_again(targets::Service& service, const Log& log) {
  if (const auto done = service.reload()) {
    log.info("SIGHUP: looking again");
  } else {
    log.error("SIGHUP: {}; the device stays as it was", done.error().message());
  }
}

}  // namespace

void ServePlace::add_to(CLI::App& verb, const std::string& what) {
  add_others_to(verb, verb.add_option("--listen", listener, what)->type_name("LISTENER"));
}

void ServePlace::add_convention_to(CLI::App& app) {
  const auto listen = [this](const std::string& path) { listener = "vfio-user:" + path; };
  add_others_to(app, app.add_option_function<std::string>("--socket-path", listen, "the UNIX socket to serve it on")
                         ->type_name("PATH"));
}

void ServePlace::add_others_to(CLI::App& verb, CLI::Option* listen) {
  const auto is_fd = CLI::Range(0, 1 << 20);
  auto* socket = verb.add_option("--fd", fd, "serve it, as vfio-user, on this socket, which listens already");
  socket->type_name("N")->check(is_fd)->excludes(listen);
  auto* ready = verb.add_option("--ready-fd", ready_fd, "write a line to this descriptor when clients can connect");
  ready->type_name("N")->check(is_fd);
  auto* wait = add_seconds(
      verb, "--unplug-wait", unplug_wait_seconds, 0,
      "on SIGTERM ask a vfio-user client that hears it (QEMU does not) to let go, and wait for so long (0)");
  for (CLI::Option* option : {listen, socket, ready, wait}) option->group("Where");
}

Result<UniqueFd> ServePlace::socket(const std::string& example) const {
  if (fd >= 0) {
    if (fcntl(fd, F_GETFD) < 0) return Error(EBADF, fmt::format("descriptor {} is not open", fd)).on("--fd");
    return UniqueFd(fd);
  }
  if (listener.empty()) {
    OUTBOARD_TRY(UniqueFd activated, activated_socket());
    if (!activated) return usage_error("no listener is given", example);
    return activated;
  }
  const auto address = targets::parse_address(listener, "listener", targets::listener_schemes());
  if (!address) return as_usage_error(address.error());
  if (address->scheme != "vfio-user" && unplug_wait_seconds != 0)
    return usage_error(
        fmt::format("--unplug-wait: this option is for vfio-user:PATH, and the listener is {}", listener),
        "leave it out, or serve on the other listener");
  return UniqueFd();
}

targets::ServeOptions ServePlace::options(const Context& context, UniqueFd socket) const {
  const std::chrono::duration<double> wait(unplug_wait_seconds);
  return {.log = context.log, .socket = std::move(socket), .unplug_wait = std::chrono::duration_cast<Duration>(wait)};
}

// An image whose open() hangs would keep the process for ever.
void ServePlace::bound_start(std::string_view name, Context& context) const {
  const auto say = [name = std::string(name), log = context.log] {
    log.error("{}: ends although its start has not: a system call does not come back, as with storage that hangs",
              name);
  };
  context.stop.bound_end(
      {.start = StopSignal::Start::at_signal, .patience = end_patience, .verdict = EndVerdict(), .say = say});
}

Result<Exit> ServePlace::run(targets::Service& service, std::string_view name, Context& context) const {
  Registration watch;
  std::optional<Pulse> pulse(std::in_place, service.loop(), context.stop, end_patience / 10);
  OUTBOARD_TRY(watch, service.loop().watch(context.stop.fd(), Ready::readable, [&](Ready) {
    watch.reset();  // it stays readable, while what is in flight is being finished
    pulse->start();
    service.stop();
  }));
  OUTBOARD_TRY(const auto hangup, HangupSignal::create());
  OUTBOARD_TRY(const auto reload,
               service.loop().watch_eventfd(hangup->event(), [&] { look_again(service, context.log); }));
  bound_the_service(context.stop, end_patience, name, service, context.log);
  OUTBOARD_TRY(const auto out, patient_stdout(context.log));
  const Status served = service.run([&] { return tell_ready(ready_fd, name, service, *out); });
  pulse.reset();
  bound_the_end(context.stop, end_patience, name, service, context.log);
  OUTBOARD_CHECK(served);
  return Exit::done;
}

}  // namespace outboard::command
