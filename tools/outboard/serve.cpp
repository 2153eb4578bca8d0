#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>

#include <fmt/format.h>

#include <outboard/targets/device_table.hpp>
#include <outboard/targets/service.hpp>
#include <outboard/targets/target.hpp>
#include <outboard/targets/transport_words.hpp>
#include <tools/outboard/command.hpp>
#include <tools/outboard/device_words.hpp>
#include <tools/outboard/hangup_signal.hpp>

namespace outboard::command {

namespace {

struct ServeArguments {
  const targets::DeviceEntry* entry = nullptr;
  OptionSet words;
  std::string listener;
  int fd = -1;
  int ready_fd = -1;
};

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

Result<UniqueFd> given_socket(const ServeArguments& arguments) {
  if (arguments.fd >= 0) {
    if (fcntl(arguments.fd, F_GETFD) < 0)
      return Error(EBADF, "file descriptor is not open").on(fmt::format("--fd {}", arguments.fd));
    return UniqueFd(arguments.fd);
  }
  if (!arguments.listener.empty()) return UniqueFd();
  return activated_socket();
}

/// For whoever started us: a line on stdout, and on the descriptor that was asked for. A line that nobody can read keeps
/// nobody from being served.
Status tell_ready(const ServeArguments& arguments, const targets::Service& service, const Log& log) {
  const std::string what = service.description();
  const auto told = print(
      fmt::format("serving {}{}{} on {}\n", arguments.entry->name, what.empty() ? "" : " ", what, service.where()));
  if (!told) log.warning("{}", told.error().message());
  if (arguments.ready_fd < 0) return {};
  const UniqueFd ready(arguments.ready_fd);
  if (write(ready.get(), "ready\n", 6) != 6)
    return Error::from_errno("writing").on(fmt::format("--ready-fd {}", arguments.ready_fd));
  return {};
}

void look_again(targets::Service& service, const Log& log) {
  if (const auto done = service.reload()) {
    log.info("SIGHUP: looked again");
  } else {
    log.error("SIGHUP: {}; it goes on as it was", done.error().message());
  }
}

Result<Exit> serve(const ServeArguments& arguments, Context& context) {
  OUTBOARD_TRY(auto socket, given_socket(arguments));
  if (!socket && arguments.listener.empty())
    return usage_error("where is the device to be served?",
                       fmt::format("outboard serve {} --listen vfio-user:PATH", arguments.entry->name));
  if (!socket) {
    const auto address = targets::parse_address(arguments.listener, "listener", targets::listener_schemes());
    if (!address) return as_usage_error(address.error());
  }
  targets::ServeOptions options{context.log, std::move(socket)};
  OUTBOARD_TRY(const auto service,
               targets::serve(*arguments.entry, arguments.words, arguments.listener, std::move(options)));
  Registration watch;
  OUTBOARD_TRY(watch, service->loop().watch(context.stop.fd(), Ready::readable, [&](Ready) {
    watch.reset();  // it stays readable, while what is in flight is being finished
    service->stop();
  }));
  OUTBOARD_TRY(const auto hangup, HangupSignal::create());
  OUTBOARD_TRY(const auto reload,
               service->loop().watch_eventfd(hangup->event(), [&] { look_again(*service, context.log); }));
  OUTBOARD_CHECK(service->run([&] { return tell_ready(arguments, *service, context.log); }));
  return Exit::done;
}

/// How a device is run depends on what it is: a virtio device has rings, and can be on the vDPA bus.
void add_words(CLI::App& verb, const targets::DeviceEntry& entry, OptionSet& words) {
  for (const auto& word : entry.options()) add_word(verb, word, words, "The device");
  const bool is_virtio = entry.type != nullptr;
  for (const auto& word : is_virtio ? targets::transport_words() : targets::function_words())
    add_word(verb, word, words, "How it is run");
  if (!is_virtio) return;
  for (const auto& word : targets::vduse_words()) add_word(verb, word, words, "On vduse:NAME");
}

void add_device(CLI::App& serve_verb, Plan& plan, const targets::DeviceEntry& entry) {
  const auto arguments = std::make_shared<ServeArguments>();
  arguments->entry = &entry;
  const std::string name(entry.name);
  const std::string words = entry.name == "blk" ? " --image disk.raw" : "";
  CLI::App* verb = add_verb(serve_verb, plan, name, std::string(entry.summary()),
                            fmt::format("outboard serve {}{} --listen vfio-user:/run/{}.sock", name, words, name),
                            [arguments](Context& context) { return serve(*arguments, context); });
  verb->parse_complete_callback([&plan] { plan.log_warnings = true; });
  add_words(*verb, entry, arguments->words);
  auto* listen = verb->add_option("--listen", arguments->listener,
                                  entry.type != nullptr ? "where to serve it: vfio-user:PATH or vduse:NAME"
                                                        : "where to serve it: vfio-user:PATH")
                     ->type_name("LISTENER");
  auto* fd = verb->add_option("--fd", arguments->fd, "serve it, as vfio-user, on this socket, which listens already")
                 ->type_name("N")
                 ->check(CLI::Range(0, 1 << 20));
  fd->excludes(listen);
  verb->add_option("--ready-fd", arguments->ready_fd, "write a line to this descriptor when clients can connect")
      ->type_name("N")
      ->check(CLI::Range(0, 1 << 20));
  for (const char* option : {"--listen", "--fd", "--ready-fd"}) verb->get_option(option)->group("Where");
}

}  // namespace

void add_serve(CLI::App& app, Plan& plan) {
  CLI::App* verb = app.add_subcommand("serve", "serve a device until SIGTERM or Ctrl-C");
  verb->require_subcommand(1);
  verb->footer(
      "Without --listen and --fd the socket comes from a service manager (LISTEN_FDS). A second client is refused while one\n"
      "is connected. SIGTERM and Ctrl-C finish what is in flight and remove the socket; a second one ends at once. SIGHUP makes\n"
      "the device look again at what stands behind it. A device on vduse:NAME is taken off the bus and removed in the end; one\n"
      "whose server was killed is taken over by the next one.\n\n"
      "Example:\n  outboard serve blk --image disk.raw --listen vfio-user:/run/blk.sock\n");
  for (const auto& entry : targets::device_table()) add_device(*verb, plan, entry);
}

}  // namespace outboard::command
