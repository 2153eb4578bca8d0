#include <tools/outboard/command.hpp>

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <ranges>

#include <fmt/format.h>

#include <outboard/base/line_writer.hpp>
#include <outboard/base/options.hpp>
#include <outboard/base/printable.hpp>
#include <outboard/pci/address.hpp>
#include <outboard/targets/device_table.hpp>
#include <outboard/targets/target.hpp>
#include <tools/outboard/end_verdict.hpp>

namespace outboard::command {

namespace {

/// No call of the library returns it, so it tells a usage error from the others.
constexpr int usage_code = EBADRQC;
constexpr const char* standard_output = "standard output";

/// Whether an error is about the words of a target, and not about the thing that they lead to.
bool is_about_words(const targets::Address& target, const Error& error) {
  if (target.scheme == "vfio-user" || (error.code() != EINVAL && error.code() != ERANGE)) return false;
  const auto taken_apart = targets::parse_local(target.rest);
  if (!taken_apart) return true;
  const std::string word = error.subject().substr(0, error.subject().find(','));
  if (taken_apart->words.has(word)) return true;
  if (target.scheme == "vfio") return !pci::Address::parse(taken_apart->device);
  const auto device = targets::find_device(taken_apart->device);
  // What is missing is about words too.
  if (!device) return true;
  const auto known = (*device)->options();
  return std::ranges::find(known, word, &OptionHelp::name) != known.end();
}

}  // namespace

CLI::App* add_verb(CLI::App& parent, Plan& plan, std::string name, const std::string& summary,
                   const std::string& example, std::function<Result<Exit>(Context&)> run) {
  CLI::App* verb = parent.add_subcommand(std::move(name), summary);
  verb->footer("Example:\n  " + example + "\n");
  verb->add_flag("-v,--verbose", plan.verbosity, "say what happens, on stderr; -vv: everything");
  verb->final_callback([&plan, run = std::move(run)] { plan.action = run; });
  return verb;
}

void TargetArguments::add_to(CLI::App& verb, const std::string& name) {
  verb.add_option(name, target, "vfio:ADDRESS, vfio-user:PATH, or local:DEVICE,WORD=VALUE,...")
      ->required()
      ->type_name(name == "TARGET" ? "TEXT" : "TARGET");
  add_seconds(verb, "--wait", wait_seconds, 0, "keep trying for so long while the server is starting");
}

Result<std::unique_ptr<pci::Handle>> TargetArguments::open(Context& context, targets::Purpose purpose) const {
  const auto address = targets::parse_address(target, "target", targets::target_schemes());
  if (!address) return as_usage_error(address.error());
  targets::OpenOptions options;
  options.purpose = purpose;
  options.log = context.log;
  options.wait = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(wait_seconds));
  options.pause = [&stop = context.stop](Duration time) { return stop.pause(time); };
  const auto say = [name = target] {
    print_error(Error(ETIMEDOUT, "ends although the device has not been opened").on(name));
  };
  context.stop.bound_end(
      {.start = StopSignal::Start::at_signal, .patience = end_patience, .verdict = EndVerdict(), .say = say});
  auto handle = targets::open(target, options);
  context.stop.unbound();
  if (!handle && is_about_words(*address, handle.error())) return as_usage_error(handle.error());
  if (!handle) return handle;
  // In every verb: a device that is asked back goes back, after what is in flight.
  (*handle)->on_event([&stop = context.stop, name = (*handle)->name()](pci::Event event) {
    // Of what happens besides, the calls tell that fail. The request may come again while we are on our way.
    if (event != pci::Event::unplug_requested || stop.requested()) return;
    print_error(Error(ECANCELED, "the device is wanted back: ending, as with Ctrl-C").on(name));
    stop.request();
  });
  return handle;
}

Result<Exit> TargetArguments::name_in(Result<Exit> result) const {
  if (result || !result.error().subject().empty() || is_usage_error(result.error())) return result;
  return Error(result.error()).on(target);
}

void print_error(const Error& error) {
  std::string text = "outboard: " + error.message() + "\n";
  if (!error.cure().empty()) text += "  " + error.cure() + "\n";
  // What a peer has said may be part of it. Our own messages may have several lines.
  std::string shown;
  for (const auto line : std::views::split(text, '\n')) shown += printable(std::string_view(line)) + "\n";
  shown.pop_back();
  LineWriter::flush_stderr();  // what the log has said comes first
  std::fputs(shown.c_str(), stderr);
}

Status print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) {  // somebody has made it non-blocking: ssh and some shells do
      pollfd out{STDOUT_FILENO, POLLOUT, 0};
      poll(&out, 1, -1);
      continue;
    }
    if (written < 0) return Error::from_errno("writing").on(standard_output);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

bool nobody_reads(const Error& error) { return error.code() == EPIPE && error.subject() == standard_output; }

Error usage_error(std::string what, std::string cure) {
  return Error(usage_code, std::move(what)).cure(std::move(cure));
}

Error as_usage_error(const Error& error) { return usage_error(error.message(), error.cure()); }

bool is_usage_error(const Error& error) {
  const int code = error.code();
  const bool of_value = code == EINVAL || code == ERANGE || code == EBADF;
  return code == usage_code || (of_value && error.subject().starts_with("--"));
}

CLI::Option* add_seconds(CLI::App& verb, const std::string& name, double& into, double least, const std::string& help) {
  static constexpr double most = 86400;
  const CLI::callback_t take = [&into, least, name](const CLI::results_t& words) {
    const std::string& text = words.back();
    double seconds = 0;
    const char* const end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data(), end, seconds);
    // Not the other way round: "nan" is a number for from_chars, and every comparison with it is false.
    const bool good = error == std::errc{} && at == end && seconds >= least && seconds <= most;
    if (!good)
      throw CLI::ValidationError(fmt::format("{} takes {:g} to {:g} seconds, not '{}'", name, least, most, text));
    into = seconds;
    return true;
  };
  return verb.add_option(name, take, help)->type_name("SECONDS");
}

CLI::Option* add_size(CLI::App& verb, const std::string& name, std::uint64_t& into, const std::string& help) {
  const auto take = [&into](const std::string& text) {
    const auto size = parse_size(text);
    if (!size) throw CLI::ValidationError(size.error().what());
    into = *size;
  };
  return verb.add_option_function<std::string>(name, take, help)->type_name("SIZE");
}

}  // namespace outboard::command
