#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>

#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/targets/target.hpp>
#include <tools/outboard/stop_signal.hpp>

namespace outboard::command {

/// What the shell is told.
enum class Exit : int { done = 0, failed = 1, usage = 2 };

/// What a verb is run with.
struct Context {
  Log log;            ///< to stderr, with -v and -vv; see Plan::log_warnings
  StopSignal& stop;   ///< Ctrl-C and SIGTERM
};

/// Where the verbs of the command line leave what is to be done, once it has been read.
struct Plan {
  std::function<Result<Exit>(Context&)> action;
  int verbosity = 0;
  /// What goes wrong is logged even without -v: for a verb that goes on after it.
  bool log_warnings = false;
};

/// Adds a verb: its help, an example at the foot of it, and -v. `run` is kept until the command line has been read.
CLI::App* add_verb(CLI::App& parent, Plan& plan, std::string name, const std::string& summary,
                   const std::string& example, std::function<Result<Exit>(Context&)> run);

// One for each file of verbs. The options of a verb live as long as the functions that they leave in the plan.
void add_serve(CLI::App& app, Plan& plan);
void add_show(CLI::App& app, Plan& plan);
void add_lspci(CLI::App& app, Plan& plan);
void add_blk(CLI::App& app, Plan& plan);
void add_example(CLI::App& app, Plan& plan);
void add_edu(CLI::App& app, Plan& plan);
void add_new(CLI::App& app, Plan& plan);
void add_reset(CLI::App& app, Plan& plan);
void add_explain_config(CLI::App& app, Plan& plan);
void add_pci(CLI::App& app, Plan& plan);
void add_vduse(CLI::App& app, Plan& plan);
void add_doctor(CLI::App& app, Plan& plan);

/// The argument TARGET (or an option of another name) and the option --wait, which most verbs have.
struct TargetArguments {
  std::string target;
  double wait_seconds = 0;
  /// For how long, after a signal, a call is waited for that does not come back, or a device that does not answer.
  Duration end_patience = std::chrono::seconds(10);

  void add_to(CLI::App& verb, const std::string& name = "TARGET");
  /// An opening that hangs (the image of a local device, say) ends the process `end_patience` after a signal.
  Result<std::unique_ptr<pci::Handle>> open(Context& context, targets::Purpose purpose = targets::Purpose::drive) const;
  /// Puts the target's name in front of a failure that does not say what it is about.
  Result<Exit> name_in(Result<Exit> result) const;
};

/// `outboard: THING: WHAT` and, indented, the cure; on stderr.
void print_error(const Error& error);

/// Writes all of `text` to stdout.
Status print(std::string_view text);
/// Whether print() has failed since whoever read stdout has gone (EPIPE of a socket is another matter).
bool nobody_reads(const Error& error);

/// Makes a usage error of one that is about a word of the command line.
Error as_usage_error(const Error& error);
/// Wrong usage, exit status 2. So is an error whose subject is an option: a value that it does not take ("--queues: 300 is ...").
Error usage_error(std::string what, std::string cure = {});
bool is_usage_error(const Error& error);

/// An option that takes a number of seconds, of at least `least` and at most a day.
CLI::Option* add_seconds(CLI::App& verb, const std::string& name, double& into, double least, const std::string& help);

/// A CLI11 check and conversion for sizes such as 64M.
CLI::Option* add_size(CLI::App& verb, const std::string& name, std::uint64_t& into, const std::string& help);

}  // namespace outboard::command
