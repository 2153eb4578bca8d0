#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <tools/outboard/stop_signal.hpp>
#include <tools/outboard/verb.hpp>

namespace outboard::command {

/// The exit status.
enum class Exit : int { done = 0, failed = 1, usage = 2 };

/// What a verb runs with.
struct Context {
  Log log;           ///< to stderr, with -v and -vv; see DefaultLog
  StopSignal& stop;   ///< Ctrl-C and SIGTERM
};

/// What is logged without -v. `warnings`: for a verb that continues after a problem, such as a server.
enum class DefaultLog : std::uint8_t { nothing, warnings };

/// The action that the command line asks for. The chosen verb fills it in when the command line has been parsed.
struct Plan {
  std::function<Result<Exit>(Context&)> action;
  int verbosity = 0;
  DefaultLog default_log = DefaultLog::nothing;
};

/// Adds a verb: its help, an example at the end of the help, and -v. `run` becomes the plan's action if the verb is chosen.
Verb add_verb(const Verb& parent, Plan& plan, const std::string& name, const std::string& summary,
              const std::string& example, std::function<Result<Exit>(Context&)> run,
              DefaultLog log = DefaultLog::nothing);

}  // namespace outboard::command
