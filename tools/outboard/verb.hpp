#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/result.hpp>

// The command line: verbs, their options, and the parser. Implemented with CLI11; only verb.cpp includes its header, which
// takes longer to compile than most verbs.
namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace outboard::command {

/// A named option, a flag or a positional argument of a verb. Copies refer to the same option. Each call returns the option,
/// so that calls can be chained.
class Option {
 public:
  explicit Option(CLI::Option& option) : option_(&option) {}

  Option required() const;
  /// The name of the value in help: `--depth N`.
  Option value_name(const std::string& name) const;
  /// The heading of the option in help.
  Option group(const std::string& heading) const;
  /// Shows the current value of the variable in help.
  Option show_default() const;
  /// Refuses other values. Help lists the values.
  Option one_of(const std::vector<std::string>& values) const;
  /// Refuses numbers outside [min, max]. Help shows the range.
  Option range(int min, int max) const;
  /// Refuses a value if `check` returns an error.
  Option check(std::function<Status(const std::string&)> check) const;
  /// Refuses both options together.
  Option excludes(const Option& other) const;

 private:
  CLI::Option* option_;
};

/// A verb. Copies refer to the same verb.
///
/// Names are given as they are typed: "--name", "-n,--name", and "NAME" for a positional argument. Parsing the command line sets
/// the variable `into`, or leaves it alone if the option is absent. The variable must outlive the parsing.
class Verb {
 public:
  explicit Verb(CLI::App& app) : app_(&app) {}

  /// `outboard PARENT NAME`.
  Verb add_verb(const std::string& name, const std::string& summary) const;
  /// A verb that only has verbs of its own.
  Verb add_group(const std::string& name, const std::string& summary, const std::string& footer) const;

  Option add_option(const std::string& name, std::string& into, const std::string& help) const;
  Option add_option(const std::string& name, std::optional<std::string>& into, const std::string& help) const;
  Option add_option(const std::string& name, int& into, const std::string& help) const;
  Option add_option(const std::string& name, unsigned& into, const std::string& help) const;
  Option add_option(const std::string& name, std::optional<std::uint32_t>& into, const std::string& help) const;
  Option add_option(const std::string& name, std::uint64_t& into, const std::string& help) const;
  /// Takes several values.
  Option add_option(const std::string& name, std::vector<std::string>& into, const std::string& help) const;
  /// Calls `take` with the value. Its error refuses the value.
  Option add_option(const std::string& name, std::function<Status(const std::string&)> take,
                    const std::string& help) const;
  /// A number of seconds, at least `min` and at most a day.
  Option add_seconds(const std::string& name, double& into, double min, const std::string& help) const;
  /// A size in bytes such as 512, 64K or 1G: parse_size().
  Option add_size(const std::string& name, std::uint64_t& into, const std::string& help) const;
  Option add_size(const std::string& name, std::optional<std::uint64_t>& into, const std::string& help) const;

  Option add_flag(const std::string& name, bool& into, const std::string& help) const;
  /// Counts the occurrences.
  Option add_flag(const std::string& name, int& count, const std::string& help) const;
  /// Calls `take` for each occurrence. Its error refuses the flag.
  Option add_flag(const std::string& name, std::function<Status()> take, const std::string& help) const;

  /// The text below the options in help.
  void set_footer(const std::string& text) const;
  /// Adds a paragraph above the footer.
  void prepend_footer(const std::string& text) const;
  /// Sets a function that is called when the command line has been parsed without an error and contains this verb.
  void on_chosen(std::function<void()> call) const;

 private:
  CLI::App* app_;
};

/// The command line after the name of the program: at most one verb and its options.
class CommandLine {
 public:
  /// Has the options --help and --version. `name`: the name of the program, for messages and help.
  CommandLine(const std::string& name, const std::string& description);
  ~CommandLine();
  CommandLine(CommandLine&& other) noexcept;
  CommandLine& operator=(CommandLine&& other) noexcept;

  /// The options of the program itself, and its verbs.
  Verb root();
  /// Sets the help text of --help. Call it before adding verbs, which inherit it.
  void describe_help(const std::string& help);
  /// Adds the verb `help`: `help VERB` is the same as `VERB --help`.
  void add_help_verb();

  /// Parses the arguments of the program. Returns the text to print (help, the version), or nothing if a verb is to run. Every
  /// error is a usage error (usage_error.hpp), also for help about an unknown verb.
  Result<std::optional<std::string>> parse(std::vector<std::string> arguments);

 private:
  std::unique_ptr<CLI::App> app_;
  const CLI::App* help_ = nullptr;
};

}  // namespace outboard::command
