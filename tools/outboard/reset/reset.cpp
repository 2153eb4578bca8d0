#include <fmt/format.h>

#include <tools/outboard/output.hpp>
#include <tools/outboard/target_arguments.hpp>
#include <tools/outboard/verbs.hpp>

namespace outboard::command {

namespace {

Result<Exit> reset(const TargetArguments& target, Context& context) {
  OUTBOARD_TRY(const auto handle, target.open(context));
  if (auto done = handle->reset(); !done) return Error(done.error()).while_doing("resetting the function");
  OUTBOARD_CHECK(print(fmt::format("{}: reset\n", handle->name())));
  return Exit::done;
}

}  // namespace

void add_reset(const Verb& parent, Plan& plan) {
  const auto target = std::make_shared<TargetArguments>();
  const Verb verb = add_verb(parent, plan, "reset", "return a function to its power-on state",
                             "outboard reset vfio-user:/run/blk.sock",
                             [target](Context& context) { return target->name_in(reset(*target, context)); });
  target->add_to(verb);
}

}  // namespace outboard::command
