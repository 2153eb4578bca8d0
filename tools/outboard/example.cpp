#include <poll.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <deque>
#include <limits>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <outboard/devices/example/driver.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tools/outboard/command.hpp>
#include <tools/outboard/line_reader.hpp>

/// `example`: numbers to the example device, and what it tells.
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

/// One object on one line, so that a script can read them as they come.
std::string json_line(const nlohmann::ordered_json& json) { return json.dump() + "\n"; }

std::string not_a_value(std::string_view text) {
  return fmt::format("'{}' is not a number between 0 and {}", text, std::numeric_limits<std::uint32_t>::max());
}

/// The device, driven. One thread.
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
  /// A value on its way, and where its answer belongs.
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
  // In this order: the driver goes before what it drives and what it fills.
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

/// Prints the answers that are due, in order; waits until no more than `leave` are out.
Status ExampleSession::show_answers(std::size_t leave) {
  while (!slots_.empty()) {
    if (slots_.front()->done) {
      OUTBOARD_CHECK(show(slots_.front()->call));
      slots_.pop_front();
      continue;
    }
    if (slots_.size() <= leave) return {};
    if (context_.stop.requested()) return StopSignal::interrupted();
    OUTBOARD_CHECK(driver_->wait(std::chrono::seconds(1)));  // the driver's deadline bounds it all
  }
  return {};
}

Status ExampleSession::show(const example::Call& call) {
  if (call.error != 0) return Error(call.error).while_doing(fmt::format("the answer to {}", call.value));
  refused_ |= call.answer.refused;
  if (arguments_.json)
    return print(json_line({{"value", call.value}, {"result", call.answer.result}, {"refused", call.answer.refused}}));
  return print(call.answer.refused ? fmt::format("{} refused\n", call.value) : fmt::format("{}\n", call.answer.result));
}

Result<Exit> ExampleSession::values(const std::vector<std::string>& texts) {
  for (const auto& text : texts) OUTBOARD_CHECK(send(parse_value(text).value()));
  OUTBOARD_CHECK(show_answers(0));
  return refused_ ? Exit::failed : Exit::done;
}

/// Serves the driver meanwhile, which is told when the device is wanted back.
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
    // Nothing to read for now: answers are not held back for it.
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
  keep(print(arguments_.json ? json_line({{"limit", limit.value}, {"epoch", limit.epoch}})
                             : fmt::format("limit {}, epoch {}\n", limit.value, limit.epoch)));
}

void ExampleSession::show_event(const example::Event& event) {
  if (arguments_.json) {
    nlohmann::ordered_json json{{"event", event.refused ? "limit-hit" : "unknown"}};
    if (event.refused) json["value"] = *event.refused;
    json["missed"] = event.missed;
    return keep(print(json_line(json)));
  }
  std::string text = event.refused ? fmt::format("{} refused", *event.refused) : "an event that is not known";
  if (event.missed != 0) text += fmt::format(", {} before it missed", event.missed);
  keep(print(text + "\n"));
}

/// From here on, what the device tells unasked is printed when it comes.
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
    return usage_error("nothing to do: give numbers, --batch or --watch", "outboard example --help");
  for (const auto& text : arguments.values) {
    if (!parse_value(text)) return usage_error(not_a_value(text));
  }
  OUTBOARD_TRY(const auto session, ExampleSession::open(arguments, context));
  if (arguments.watch) OUTBOARD_CHECK(session->start_watching());
  auto done = arguments.batch ? session->batch() : session->values(arguments.values);
  return arguments.watch && done ? session->watch() : done;
}

}  // namespace

void add_example(CLI::App& app, Plan& plan) {
  const auto arguments = std::make_shared<ExampleArguments>();
  CLI::App* verb = add_verb(app, plan, "example", "drive the example device: numbers in, numbers plus one out",
                            "outboard example vfio-user:/run/example.sock 41", [arguments](Context& context) {
                              return arguments->target.name_in(run(*arguments, context));
                            });
  arguments->target.add_to(*verb);
  verb->add_option("VALUE", arguments->values, "numbers between 0 and 4294967295");
  verb->add_flag("--batch", arguments->batch, "one number a line from stdin, one answer a line to stdout");
  verb->add_flag("--watch", arguments->watch,
                 "print the limit, each change of it and each event, until Ctrl-C; also with numbers");
  verb->add_flag("--json", arguments->json,
                 "an object on a line for each answer (value, result, refused), event (event, value, missed) and limit "
                 "(limit, epoch)");
  verb->footer("A number above the limit prints `N refused`; the exit status is then 1.\n\n" + verb->get_footer());
}

}  // namespace outboard::command
