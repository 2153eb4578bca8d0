#include <fmt/format.h>

#include <outboard/vduse/bus_remove.hpp>
#include <tools/outboard/command.hpp>
#include <tools/outboard/vduse_create.hpp>
#include <tools/outboard/vduse_list.hpp>
#include <tools/outboard/vduse_places.hpp>

/// `vduse`: the devices that VDUSE has on this machine, whoever made them.
namespace outboard::command {

namespace {

struct RemoveArguments {
  std::string name;
  std::string journal;
};

Result<Exit> remove(const RemoveArguments& arguments, Context& context) {
  if (const auto good = vduse::check_name(arguments.name); !good) return as_usage_error(good.error());
  OUTBOARD_TRY(auto control, vduse::Control::open(vduse::spec::api_version_0));
  // A server that has the name is left alone even before it has the node open.
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

void add_list(CLI::App& parent, Plan& plan) {
  const auto json = std::make_shared<bool>(false);
  CLI::App* verb = add_verb(parent, plan, "list", "each device: its driver, its disk, who uses it and who serves it",
                            "outboard vduse list --json", [json](Context&) -> Result<Exit> {
                              const auto devices = vduse_devices();
                              OUTBOARD_CHECK(print(*json ? vduse_json(devices) : vduse_text(devices)));
                              return Exit::done;
                            });
  verb->add_flag("--json", *json, "as JSON");
}

void add_remove(CLI::App& parent, Plan& plan) {
  const auto arguments = std::make_shared<RemoveArguments>();
  CLI::App* verb =
      add_verb(parent, plan, "remove", "take a device that nobody serves off the bus, and destroy it",
               "outboard vduse remove blk0", [arguments](Context& context) { return remove(*arguments, context); });
  verb->parse_complete_callback([&plan] { plan.log_warnings = true; });
  verb->add_option("NAME", arguments->name, "of the device: outboard vduse list")->required();
  verb->add_option("--journal", arguments->journal, "where its server kept its journal, which goes too")
      ->type_name("FILE");
}

}  // namespace

void add_vduse(CLI::App& app, Plan& plan) {
  CLI::App* verb = app.add_subcommand("vduse", "devices that VDUSE has on this machine: list, remove, create");
  verb->require_subcommand(1);
  verb->footer(
      "`outboard serve DEVICE --listen vduse:NAME` makes a device, puts it on the vDPA bus, and removes it when it ends.\n"
      "What is here is for the rest: to see what there is, to remove what a dead server left, and to make a device that a\n"
      "server without rights will serve.\n\n"
      "Example:\n  outboard vduse list\n");
  add_list(*verb, plan);
  add_remove(*verb, plan);
  add_vduse_create(*verb, plan);
}

}  // namespace outboard::command
