#include <tools/outboard/verb.hpp>

#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include <outboard/base/options.hpp>
#include <tools/outboard/build_facts.hpp>
#include <tools/outboard/usage_error.hpp>

namespace outboard::command {

namespace {

constexpr double max_seconds = 86400;

/// CLI11 expects a refused value as an exception. CommandLine::parse() catches it.
void throw_refusal(const Status& status) {
  if (!status) throw CLI::ValidationError(status.error().message());
}

Result<double> parse_seconds(const std::string& name, const std::string& text, double min) {
  double seconds = 0;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, seconds);
  // Compared this way round because from_chars accepts "nan", and every comparison with it is false.
  const bool good = error == std::errc{} && at == end && seconds >= min && seconds <= max_seconds;
  if (!good) return Error(EINVAL, fmt::format("{} takes {:g} to {:g} seconds, not '{}'", name, min, max_seconds, text));
  return seconds;
}

/// An option whose text `parse` converts to a value.
template <typename Value, typename Parse>
Option add_parsed(const Verb& verb, const std::string& name, Value& into, const std::string& help, const Parse& parse) {
  const auto take = [&into, parse](const std::string& text) -> Status {
    OUTBOARD_TRY(into, parse(text));
    return {};
  };
  return verb.add_option(name, take, help);
}

/// The verb that was reached, with those above it: "outboard blk info".
std::pair<const CLI::App*, std::string> last_verb(const CLI::App& app) {
  const CLI::App* verb = &app;
  std::string name = app.get_name();
  while (!verb->get_subcommands().empty()) {
    verb = verb->get_subcommands().front();
    name += " " + verb->get_name();
  }
  return {verb, name};
}

/// The verbs below `verb`.
std::vector<std::string> verbs_of(const CLI::App& verb) {
  std::vector<std::string> names;
  for (const CLI::App* each : verb.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(each->get_name());
  return names;
}

/// The error for a word that stands where a verb belongs and is none.
std::optional<Error> unknown_verb(const CLI::App& app) {
  const auto [verb, name] = last_verb(app);
  const auto known = verbs_of(*verb);
  const auto left = verb->remaining();
  const auto stray = std::ranges::find_if(left, [](const std::string& word) { return !word.starts_with('-'); });
  if (known.empty() || stray == left.end()) return std::nullopt;
  return usage_error(fmt::format("unknown verb '{}' after `{}`", *stray, name),
                     fmt::format("its verbs: {}", fmt::join(known, ", ")));
}

/// CLI11 reports a missing "subcommand" where a verb is misspelt, and lists unexpected arguments backwards.
Error parse_error(const CLI::App& app, const CLI::ParseError& error) {
  if (auto unknown = unknown_verb(app)) return *unknown;
  const auto [verb, name] = last_verb(app);
  const auto known = verbs_of(*verb);
  const auto left = verb->remaining();
  const bool more = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  if (!known.empty() && (left.empty() || !more))
    return usage_error(fmt::format("`{}` needs a verb", name), fmt::format("its verbs: {}", fmt::join(known, ", ")));
  if (more && left.empty())
    return usage_error(fmt::format("unexpected before the verb: {}", fmt::join(app.remaining(true), " ")),
                       name + " --help");
  return usage_error(more ? fmt::format("unexpected argument: {}", fmt::join(left, " ")) : error.what(),
                     name + " --help");
}

constexpr const char* help_verb = "help";

}  // namespace

Option Option::required() const {
  option_->required();
  return *this;
}

Option Option::value_name(const std::string& name) const {
  option_->type_name(name);
  return *this;
}

Option Option::group(const std::string& heading) const {
  option_->group(heading);
  return *this;
}

Option Option::show_default() const {
  option_->capture_default_str();
  return *this;
}

Option Option::one_of(const std::vector<std::string>& values) const {
  option_->check(CLI::IsMember(values));
  return *this;
}

Option Option::range(int min, int max) const {
  option_->check(CLI::Range(min, max));
  return *this;
}

Option Option::check(std::function<Status(const std::string&)> check) const {
  option_->check([check = std::move(check)](const std::string& text) {
    const Status status = check(text);
    return status ? std::string() : status.error().message();
  });
  return *this;
}

Option Option::excludes(const Option& other) const {
  option_->excludes(other.option_);
  return *this;
}

Verb Verb::add_verb(const std::string& name, const std::string& summary) const {
  return Verb(*app_->add_subcommand(name, summary));
}

Verb Verb::add_group(const std::string& name, const std::string& summary, const std::string& footer) const {
  CLI::App* group = app_->add_subcommand(name, summary);
  group->require_subcommand(1);
  group->footer(footer);
  return Verb(*group);
}

Option Verb::add_option(const std::string& name, std::string& into, const std::string& help) const {
  return Option(*app_->add_option(name, into, help));
}

Option Verb::add_option(const std::string& name, std::optional<std::string>& into, const std::string& help) const {
  return Option(*app_->add_option(name, into, help));
}

Option Verb::add_option(const std::string& name, int& into, const std::string& help) const {
  return Option(*app_->add_option(name, into, help));
}

Option Verb::add_option(const std::string& name, unsigned& into, const std::string& help) const {
  return Option(*app_->add_option(name, into, help));
}

Option Verb::add_option(const std::string& name, std::optional<std::uint32_t>& into, const std::string& help) const {
  return Option(*app_->add_option(name, into, help));
}

Option Verb::add_option(const std::string& name, std::uint64_t& into, const std::string& help) const {
  return Option(*app_->add_option(name, into, help));
}

Option Verb::add_option(const std::string& name, std::vector<std::string>& into, const std::string& help) const {
  return Option(*app_->add_option(name, into, help));
}

Option Verb::add_option(const std::string& name, std::function<Status(const std::string&)> take,
                        const std::string& help) const {
  const auto call = [take = std::move(take)](const std::string& text) { throw_refusal(take(text)); };
  return Option(*app_->add_option_function<std::string>(name, call, help));
}

Option Verb::add_seconds(const std::string& name, double& into, double min, const std::string& help) const {
  const auto parse = [name, min](const std::string& text) { return parse_seconds(name, text, min); };
  return add_parsed(*this, name, into, help, parse).value_name("SECONDS");
}

Option Verb::add_size(const std::string& name, std::uint64_t& into, const std::string& help) const {
  return add_parsed(*this, name, into, help, parse_size).value_name("SIZE");
}

Option Verb::add_size(const std::string& name, std::optional<std::uint64_t>& into, const std::string& help) const {
  return add_parsed(*this, name, into, help, parse_size).value_name("SIZE");
}

Option Verb::add_flag(const std::string& name, bool& into, const std::string& help) const {
  return Option(*app_->add_flag(name, into, help));
}

Option Verb::add_flag(const std::string& name, int& count, const std::string& help) const {
  return Option(*app_->add_flag(name, count, help));
}

Option Verb::add_flag(const std::string& name, std::function<Status()> take, const std::string& help) const {
  const auto call = [take = std::move(take)] { throw_refusal(take()); };
  return Option(*app_->add_flag_callback(name, call, help));
}

void Verb::set_footer(const std::string& text) const { app_->footer(text); }

void Verb::prepend_footer(const std::string& text) const { app_->footer(text + "\n\n" + app_->get_footer()); }

void Verb::on_chosen(std::function<void()> call) const { app_->final_callback(std::move(call)); }

CommandLine::CommandLine(const std::string& name, const std::string& description)
    : app_(std::make_unique<CLI::App>(description, name)) {
  app_->set_version_flag("--version", fmt::format("outboard {}", version), "print the version");
  app_->require_subcommand(0, 1);
}

CommandLine::~CommandLine() = default;
CommandLine::CommandLine(CommandLine&& other) noexcept = default;
CommandLine& CommandLine::operator=(CommandLine&& other) noexcept = default;

Verb CommandLine::root() { return Verb(*app_); }

void CommandLine::describe_help(const std::string& help) { app_->set_help_flag("-h,--help", help); }

void CommandLine::add_help_verb() { help_ = app_->add_subcommand(help_verb, "print this help")->silent(); }

Result<std::optional<std::string>> CommandLine::parse(std::vector<std::string> arguments) {
  if (arguments.size() > 1 && arguments[0] == help_verb) {
    arguments.erase(arguments.begin());
    arguments.emplace_back("--help");
  }
  std::ranges::reverse(arguments);  // CLI11 takes the last one first
  try {
    app_->parse(std::move(arguments));
  } catch (const CLI::CallForVersion& wanted) {
    return std::string(wanted.what()) + "\n";
  } catch (const CLI::Success&) {
    if (auto unknown = unknown_verb(*app_)) return *unknown;
    return app_->help();
  } catch (const CLI::ParseError& error) {
    return parse_error(*app_, error);
  }
  if (help_ != nullptr && app_->got_subcommand(help_)) return app_->help();
  return std::nullopt;
}

}  // namespace outboard::command
