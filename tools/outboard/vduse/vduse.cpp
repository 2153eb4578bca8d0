#include <fmt/format.h>

#include <outboard/vduse/internal/bus_remove.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/usage_error.hpp>
#include <tools/outboard/vduse/create.hpp>
#include <tools/outboard/vduse/list.hpp>
#include <tools/outboard/vduse/places.hpp>
#include <tools/outboard/verbs.hpp>

/// `vduse`: the VDUSE devices of this machine, whoever made them.
namespace outboard::command {

namespace {

struct RemoveArguments {
  std::string name;
  std::string journal;
};

Result<Exit> remove(const RemoveArguments& arguments, Context& context) {
  if (const auto good = vduse::check_name(arguments.name); !good) return as_usage_error(good.error());
  OUTBOARD_TRY(auto control, vduse::Control::open(vduse::spec::api_version_0));
  // The lock keeps away from a server that has not opened the node yet.
  OUTBOARD_TRY(const auto lock, take_vduse_lock(arguments.name));
  vduse::Bus bus({.log = context.log});
  const std::string journal = arguments.journal.empty() ? vduse_journal(arguments.name) : arguments.journal;
  vduse::Removal removal(bus, control,
                         {.journal = journal,
                          .pause = [&stop = context.stop](Duration time) { return stop.pause(time); },
                          .log = context.log});
  OUTBOARD_CHECK(removal.remove(arguments.name));
  OUTBOARD_CHECK(print(fmt::format("{}: removed\n", arguments.name)));
  return Exit::done;
}

void add_list(const Verb& parent, Plan& plan) {
  const auto json = std::make_shared<bool>(false);
  const Verb verb = add_verb(parent, plan, "list", "list the devices: driver, disk, users and server of each",
                             "outboard vduse list --json", [json](Context&) -> Result<Exit> {
                               const auto devices = vduse_devices();
                               OUTBOARD_CHECK(print(*json ? vduse_json(devices) : vduse_text(devices)));
                               return Exit::done;
                             });
  verb.add_flag("--json", *json, "as JSON");
}

void add_remove(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<RemoveArguments>();
  const Verb verb = add_verb(
      parent, plan, "remove", "take a device without a server off the bus and destroy it", "outboard vduse remove blk0",
      [arguments](Context& context) { return remove(*arguments, context); }, DefaultLog::warnings);
  verb.add_option("NAME", arguments->name, "name of the device (see outboard vduse list)").required();
  verb.add_option("--journal", arguments->journal, "journal of its server, which is removed too").value_name("FILE");
}

}  // namespace

void add_vduse(const Verb& parent, Plan& plan) {
  const Verb verb = parent.add_group(
      "vduse", "VDUSE devices of this machine: list, remove, create",
      "`outboard serve DEVICE --listen vduse:NAME` makes a device, puts it on the vDPA bus and removes it at the end.\n"
      "These verbs list the devices, remove the device of a dead server, and make a device for a server that does not run\n"
      "as root.\n\n"
      "Example:\n  outboard vduse list\n");
  add_list(verb, plan);
  add_remove(verb, plan);
  add_vduse_create(verb, plan);
}

}  // namespace outboard::command
