#include <tools/outboard/plan.hpp>

#include <utility>

namespace outboard::command {

Verb add_verb(const Verb& parent, Plan& plan, const std::string& name, const std::string& summary,
              const std::string& example, std::function<Result<Exit>(Context&)> run, DefaultLog log) {
  const Verb verb = parent.add_verb(name, summary);
  verb.set_footer("Example:\n  " + example + "\n");
  verb.add_flag("-v,--verbose", plan.verbosity, "log what the library does to stderr; -vv: with debug lines");
  verb.on_chosen([&plan, run = std::move(run), log] {
    plan.action = run;
    plan.default_log = log;
  });
  return verb;
}

}  // namespace outboard::command
