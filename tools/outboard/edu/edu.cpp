#include <poll.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/devices/edu/driver.hpp>
#include <tools/outboard/json.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/target_arguments.hpp>
#include <tools/outboard/text.hpp>
#include <tools/outboard/usage_error.hpp>
#include <tools/outboard/verbs.hpp>

/// `edu`: drives QEMU's educational device, or ours.
namespace outboard::command {

namespace {

using edu::Driver;
struct EduArguments {
  TargetArguments target;
  std::string action;
  std::vector<std::string> values;
  std::string interrupts = "auto";
  std::uint64_t dma_mask = edu::spec::default_dma_mask;
  double timeout_seconds = 10;
  bool json = false;
};

constexpr std::array<std::string_view, 4> actions{"info", "factorial", "dma", "interrupt"};

bool is_action(std::string_view word) { return std::ranges::find(actions, word) != actions.end(); }

constexpr std::array<std::pair<std::string_view, Driver::Interrupts>, 4> interrupt_kinds{
    {{"auto", Driver::Interrupts::automatic},
     {"none", Driver::Interrupts::none},
     {"intx", Driver::Interrupts::intx},
     {"msi", Driver::Interrupts::msi}}};

Result<std::uint32_t> parse_number(std::string_view text) {
  const bool hex = text.starts_with("0x");
  const std::string_view digits = text.substr(hex ? 2 : 0);
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, hex ? 16 : 10);
  if (error != std::errc() || end != digits.data() + digits.size())
    return usage_error(fmt::format("'{}' is not a number between 0 and 4294967295", text));
  return value;
}

/// Drives the device and prints the results. One thread.
class EduSession {
 public:
  static Result<std::unique_ptr<EduSession>> open(const EduArguments& arguments, Context& context) {
    std::unique_ptr<EduSession> session(new EduSession(arguments));
    OUTBOARD_TRY(session->handle_, arguments.target.open(context));
    Driver::Options options{.dma_mask = arguments.dma_mask};
    for (const auto& [name, kind] : interrupt_kinds) {
      if (name == arguments.interrupts) options.interrupts = kind;
    }
    options.timeout = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(arguments.timeout_seconds));
    options.wait = [&stop = context.stop](std::span<const int> fds, Duration time) { return wait(stop, fds, time); };
    OUTBOARD_TRY(auto driver, Driver::start(*session->handle_, options));
    session->driver_.emplace(std::move(driver));
    return session;
  }

  Status info();
  Status factorials(const std::vector<std::uint32_t>& numbers);
  Status dma(std::uint32_t seed);
  Status interrupt(std::uint32_t causes);

 private:
  explicit EduSession(const EduArguments& arguments) : arguments_(arguments) {}

  /// Waits for one of `fds`, for `time` or for Ctrl-C, whichever comes first.
  static bool wait(StopSignal& stop, std::span<const int> fds, Duration time) {
    std::vector<pollfd> watched{{.fd = stop.fd(), .events = POLLIN, .revents = 0}};
    for (const int fd : fds) watched.push_back({.fd = fd, .events = POLLIN, .revents = 0});
    const auto whole = std::chrono::floor<std::chrono::seconds>(time);
    const timespec timeout{.tv_sec = whole.count(), .tv_nsec = (time - whole).count()};
    static_cast<void>(::ppoll(watched.data(), watched.size(), &timeout, nullptr));
    return !stop.requested();
  }

  std::string_view interrupt_name() const {
    const auto kind = driver_->interrupt_kind();
    return !kind ? "none" : *kind == pci::InterruptKind::msi ? "MSI" : "INTx";
  }
  /// Prints one line: a JSON object with --json, else text.
  Status show(const Json& json, const std::string& text) const {
    return print(arguments_.json ? json.line() : text + "\n");
  }
  template <typename Work>
  Result<Duration> time_of(Work work) {
    const TimePoint start = Clock::system().now();
    OUTBOARD_CHECK(work());
    return Clock::system().now() - start;
  }

  const EduArguments& arguments_;
  // In this order: the driver is destroyed before the handle that it uses.
  std::unique_ptr<pci::Handle> handle_;
  std::optional<Driver> driver_;
};

double seconds(Duration time) { return std::chrono::duration<double>(time).count(); }

Status EduSession::info() {
  const auto [major, minor] = driver_->version();
  OUTBOARD_TRY(const auto bar, handle_->bar(edu::spec::bar));
  return show(
      {{"target", handle_->name()},
       {"version", fmt::format("{}.{}", major, minor)},
       {"alive", true},
       {"bar_size", bar.size()},
       {"interrupts", interrupt_name()},
       {"buffer_size", edu::spec::buffer_size},
       {"dma_mask", arguments_.dma_mask}},
      fmt::format("{}: edu {}.{}, alive\n  BAR 0      {}\n  interrupts {}\n  buffer     {}, reached by DMA up to {:#x}",
                  handle_->name(), major, minor, size_text(bar.size()), interrupt_name(),
                  size_text(edu::spec::buffer_size), arguments_.dma_mask));
}

Status EduSession::factorials(const std::vector<std::uint32_t>& numbers) {
  for (const std::uint32_t number : numbers) {
    OUTBOARD_TRY(const auto result, driver_->factorial(number));
    OUTBOARD_CHECK(show({{"number", number}, {"result", result}}, std::to_string(result)));
  }
  return {};
}

Status EduSession::dma(std::uint32_t seed) {
  OUTBOARD_TRY(const auto time, time_of([&] { return driver_->verify(seed); }));
  return show(
      {{"bytes", edu::spec::buffer_size},
       {"verified", true},
       {"interrupts", driver_->interrupts()},
       {"seconds", seconds(time)}},
      fmt::format("{} to the device and back, the same: {}", size_text(edu::spec::buffer_size), time_text(time)));
}

Status EduSession::interrupt(std::uint32_t causes) {
  OUTBOARD_TRY(const auto time, time_of([&] { return driver_->raise_interrupt(causes); }));
  return show({{"interrupts", interrupt_name()}, {"causes", causes}, {"seconds", seconds(time)}},
              fmt::format("{} for {:#x}: {}", interrupt_name(), causes, time_text(time)));
}

Result<std::vector<std::uint32_t>> parse_numbers(const std::vector<std::string>& texts) {
  std::vector<std::uint32_t> numbers;
  for (const auto& text : texts) {
    OUTBOARD_TRY(numbers.emplace_back(), parse_number(text));
  }
  return numbers;
}

/// Checks the arguments before the device is touched.
Status check(const EduArguments& arguments, const std::vector<std::uint32_t>& numbers) {
  if (arguments.action == "factorial") {
    if (numbers.empty()) return usage_error("factorial needs a number", "outboard edu factorial TARGET 12");
    return {};
  }
  const std::size_t max_values = arguments.action == "info" ? 0 : 1;
  if (numbers.size() > max_values)
    return usage_error(fmt::format("unexpected argument: {}", arguments.values[max_values]), "outboard edu --help");
  if (arguments.action == "interrupt" && !numbers.empty() && numbers[0] == 0)
    return usage_error("interrupt needs a cause that is not 0", "outboard edu interrupt TARGET 1");
  return {};
}

/// `edu TARGET ACTION` means the same as `edu ACTION TARGET`: that was the order of earlier versions.
Status put_in_order(EduArguments& arguments) {
  if (!is_action(arguments.action) && is_action(arguments.target.target))
    std::swap(arguments.action, arguments.target.target);
  if (is_action(arguments.action)) return {};
  return usage_error(fmt::format("unknown action '{}'", arguments.action),
                     fmt::format("its actions: {}", fmt::join(actions, ", ")));
}

Result<Exit> run(const EduArguments& arguments, Context& context) {
  OUTBOARD_TRY(const auto numbers, parse_numbers(arguments.values));
  OUTBOARD_CHECK(check(arguments, numbers));
  OUTBOARD_TRY(const auto session, EduSession::open(arguments, context));
  Status done;
  if (arguments.action == "info") done = session->info();
  if (arguments.action == "factorial") done = session->factorials(numbers);
  if (arguments.action == "dma") done = session->dma(numbers.empty() ? 1 : numbers[0]);
  if (arguments.action == "interrupt") done = session->interrupt(numbers.empty() ? 1 : numbers[0]);
  if (!done) return done.error();
  return Exit::done;
}

}  // namespace

void add_edu(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<EduArguments>();
  const Verb verb =
      add_verb(parent, plan, "edu", "drive the educational device: info, factorial, dma, interrupt",
               "outboard edu factorial vfio-user:/run/edu.sock 12", [arguments](Context& context) -> Result<Exit> {
                 OUTBOARD_CHECK(put_in_order(*arguments));
                 return arguments->target.name_in(run(*arguments, context));
               });
  verb.add_option("ACTION", arguments->action, "info, factorial, dma or interrupt").required().value_name("ACTION");
  arguments->target.add_to(verb);
  verb.add_option("VALUE", arguments->values, "numbers for factorial, a seed for dma, or causes for interrupt");
  verb.add_option("--interrupts", arguments->interrupts, "auto (MSI, else INTx), none (poll), intx or msi (auto)")
      .value_name("KIND")
      .one_of({"auto", "none", "intx", "msi"});
  verb.add_option("--dma-mask", arguments->dma_mask,
                  "addresses that the device reaches by DMA (default 0xfffffff: 28 bits)")
      .value_name("N");
  verb.add_seconds("--timeout", arguments->timeout_seconds, 0.001, "timeout of each answer of the device (default 10)");
  verb.add_flag("--json", arguments->json, "one JSON object a line for each result");
  verb.prepend_footer(
      "  info TARGET                print the version, the BAR and whether the device answers\n"
      "  factorial TARGET N...      print N! modulo 2^32, for each N\n"
      "  dma TARGET [SEED]          fill the device's buffer by DMA, read it back by DMA, and compare\n"
      "  interrupt TARGET [CAUSES]  make the device raise its interrupt, and wait for it");
}

}  // namespace outboard::command
