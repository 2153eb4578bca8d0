#include <poll.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <deque>
#include <limits>
#include <optional>

#include <fmt/format.h>

#include <outboard/devices/example/driver.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tools/outboard/example/line_reader.hpp>
#include <tools/outboard/json.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/target_arguments.hpp>
#include <tools/outboard/usage_error.hpp>
#include <tools/outboard/verbs.hpp>

/// `example`: drives the example device.
namespace outboard::command {

namespace {

struct ExampleArguments {
  TargetArguments target;
  std::vector<std::string> values;
  bool batch = false;
  bool watch = false;
  bool json = false;
};

/// R-EX-5 (outboard/devices/example/specification.md): "A driver that takes numbers as text MUST convert them itself, and
/// MUST refuse text that is no number between 0 and 2^32 - 1."
std::optional<std::uint32_t> parse_value(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string not_a_value(std::string_view text) {
  return fmt::format("'{}' is not a number between 0 and {}", text, std::numeric_limits<std::uint32_t>::max());
}

/// Drives the device. One thread.
class ExampleSession {
 public:
  static Result<std::unique_ptr<ExampleSession>> open(const ExampleArguments& arguments, Context& context) {
    std::unique_ptr<ExampleSession> session(new ExampleSession(arguments, context));
    OUTBOARD_TRY(session->handle_, arguments.target.open(context));
    OUTBOARD_TRY(auto driver, example::Driver::start(*session->handle_, {.log = context.log}));
    session->driver_.emplace(std::move(driver));
    const auto wake = [](Ready) {};
    OUTBOARD_TRY(session->stop_watch_, session->driver_->loop().watch(context.stop.fd(), Ready::readable, wake));
    return session;
  }

  Result<Exit> values(const std::vector<std::string>& texts);
  Result<Exit> batch();
  Status start_watching();
  Result<Exit> watch();

 private:
  /// A value in flight, and its answer.
  struct Slot {
    explicit Slot(std::uint32_t value) {
      call.value = value;
      call.context = this;
      call.done = [](example::Call& ended) { static_cast<Slot*>(ended.context)->done = true; };
    }
    example::Call call;
    bool done = false;
  };

  ExampleSession(const ExampleArguments& arguments, Context& context) : arguments_(arguments), context_(context) {}

  Status send(std::uint32_t value);
  Status show_answers(std::size_t leave);
  Status wait_for_input(const LineReader& lines);
  Status show(const example::Call& call);
  void show_limit(const example::Limit& limit);
  void show_event(const example::Event& event);
  void keep(const Status& printed) {
    if (!printed && !failure_) failure_ = printed.error();
  }

  const ExampleArguments& arguments_;
  Context& context_;
  // In this order: the driver is destroyed before the handle and the slots that it uses.
  std::unique_ptr<pci::Handle> handle_;
  std::deque<std::unique_ptr<Slot>> slots_;  // in the order of the values
  std::optional<example::Driver> driver_;
  Registration stop_watch_;
  bool refused_ = false;
  std::optional<Error> failure_;
};

Status ExampleSession::send(std::uint32_t value) {
  OUTBOARD_CHECK(show_answers(driver_->depth() - std::size_t{1}));
  auto slot = std::make_unique<Slot>(value);
  OUTBOARD_CHECK(driver_->submit(slot->call));
  slots_.push_back(std::move(slot));
  driver_->publish();
  return {};
}

/// Prints the answers in order; waits until at most `leave` are outstanding.
Status ExampleSession::show_answers(std::size_t leave) {
  while (!slots_.empty()) {
    if (slots_.front()->done) {
      OUTBOARD_CHECK(show(slots_.front()->call));
      slots_.pop_front();
      continue;
    }
    if (slots_.size() <= leave) return {};
    if (context_.stop.requested()) return StopSignal::interrupted();
    OUTBOARD_CHECK(driver_->wait(std::chrono::seconds(1)));  // the driver's timeout limits it all
  }
  return {};
}

Status ExampleSession::show(const example::Call& call) {
  if (call.error != 0) return Error(call.error).while_doing(fmt::format("the answer to {}", call.value));
  refused_ |= call.answer.refused;
  if (arguments_.json)
    return print(
        Json({{"value", call.value}, {"result", call.answer.result}, {"refused", call.answer.refused}}).line());
  return print(call.answer.refused ? fmt::format("{} refused\n", call.value) : fmt::format("{}\n", call.answer.result));
}

Result<Exit> ExampleSession::values(const std::vector<std::string>& texts) {
  for (const auto& text : texts) OUTBOARD_CHECK(send(parse_value(text).value()));
  OUTBOARD_CHECK(show_answers(0));
  return refused_ ? Exit::failed : Exit::done;
}

/// Runs the driver meanwhile, for events of the handle.
Status ExampleSession::wait_for_input(const LineReader& lines) {
  while (!lines.ready() && !context_.stop.requested()) {
    std::array<pollfd, 3> fds{{{STDIN_FILENO, POLLIN, 0}, {context_.stop.fd(), POLLIN, 0}, {driver_->fd(), POLLIN, 0}}};
    if (::poll(fds.data(), fds.size(), -1) < 0) continue;
    if (fds[2].revents != 0) OUTBOARD_CHECK(driver_->process());
  }
  return {};
}

Result<Exit> ExampleSession::batch() {
  LineReader lines(STDIN_FILENO);
  for (std::uint64_t number = 1;; ++number) {
    if (context_.stop.requested()) return StopSignal::interrupted();
    // Print the answers before waiting for input.
    if (!lines.ready()) OUTBOARD_CHECK(show_answers(0));
    OUTBOARD_CHECK(wait_for_input(lines));
    OUTBOARD_TRY(const auto line, lines.next(context_.stop.fd()));
    if (!line) break;
    const auto value = parse_value(*line);
    if (!value) {
      OUTBOARD_CHECK(show_answers(0));
      return Error(EINVAL, not_a_value(*line)).on(fmt::format("line {}", number));
    }
    OUTBOARD_CHECK(send(*value));
  }
  OUTBOARD_CHECK(show_answers(0));
  return refused_ ? Exit::failed : Exit::done;
}

void ExampleSession::show_limit(const example::Limit& limit) {
  keep(print(arguments_.json ? Json({{"limit", limit.value}, {"epoch", limit.epoch}}).line()
                             : fmt::format("limit {}, epoch {}\n", limit.value, limit.epoch)));
}

void ExampleSession::show_event(const example::Event& event) {
  if (arguments_.json) {
    Json json{{"event", event.refused ? "limit-hit" : "unknown"}};
    if (event.refused) json.set("value", *event.refused);
    json.set("missed", event.missed);
    return keep(print(json.line()));
  }
  std::string text = event.refused ? fmt::format("{} refused", *event.refused) : "unknown event";
  if (event.missed != 0) text += fmt::format(", {} before it missed", event.missed);
  keep(print(text + "\n"));
}

/// From here on, prints events and changes of the limit as they come.
Status ExampleSession::start_watching() {
  OUTBOARD_TRY(const auto limit, driver_->limit());
  driver_->on_limit([this](const example::Limit& now) { show_limit(now); });
  driver_->on_event([this](const example::Event& event) { show_event(event); });
  show_limit(limit);
  return {};
}

Result<Exit> ExampleSession::watch() {
  while (!context_.stop.requested() && !failure_) {
    if (driver_->broken()) return Error(EIO, "the device is broken").cure("-v shows why");
    OUTBOARD_CHECK(driver_->wait(std::chrono::seconds(1)));
  }
  if (failure_) return *failure_;
  return Exit::done;
}

Result<Exit> run(const ExampleArguments& arguments, Context& context) {
  if (arguments.batch && !arguments.values.empty()) return usage_error("--batch takes its numbers from stdin");
  if (!arguments.batch && !arguments.watch && arguments.values.empty())
    return usage_error("no numbers are given: use numbers, --batch or --watch", "outboard example --help");
  for (const auto& text : arguments.values) {
    if (!parse_value(text)) return usage_error(not_a_value(text));
  }
  OUTBOARD_TRY(const auto session, ExampleSession::open(arguments, context));
  if (arguments.watch) OUTBOARD_CHECK(session->start_watching());
  auto done = arguments.batch ? session->batch() : session->values(arguments.values);
  return arguments.watch && done ? session->watch() : done;
}

}  // namespace

void add_example(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<ExampleArguments>();
  const Verb verb = add_verb(parent, plan, "example", "drive the example device: adds one to each number",
                             "outboard example vfio-user:/run/example.sock 41", [arguments](Context& context) {
                               return arguments->target.name_in(run(*arguments, context));
                             });
  arguments->target.add_to(verb);
  verb.add_option("VALUE", arguments->values, "numbers between 0 and 4294967295");
  verb.add_flag("--batch", arguments->batch, "read one number a line from stdin, print one answer a line");
  verb.add_flag("--watch", arguments->watch, "print the limit, its changes and events until Ctrl-C; also with numbers");
  verb.add_flag(
      "--json", arguments->json,
      "one JSON object a line for each answer (value, result, refused), event (event, value, missed) and limit "
      "(limit, epoch)");
  verb.prepend_footer("For a number above the limit it prints `N refused`, and the exit status is 1.");
}

}  // namespace outboard::command
