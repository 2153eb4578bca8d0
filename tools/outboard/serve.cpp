#include <fmt/format.h>

#include <outboard/targets/device_table.hpp>
#include <tools/outboard/command.hpp>
#include <tools/outboard/serve_device.hpp>
#include <tools/outboard/serve_pci.hpp>

namespace outboard::command {

namespace {

void add_device(CLI::App& serve_verb, Plan& plan, const targets::DeviceEntry& entry) {
  const auto arguments = std::make_shared<ServeArguments>();
  arguments->entry = &entry;
  const std::string name(entry.name);
  const std::string words = entry.name == "blk" ? " --image disk.raw" : "";
  CLI::App* verb = add_verb(serve_verb, plan, name, std::string(entry.summary()),
                            fmt::format("outboard serve {}{} --listen vfio-user:/run/{}.sock", name, words, name),
                            [arguments](Context& context) {
                              const auto example =
                                  fmt::format("outboard serve {} --listen vfio-user:PATH", arguments->entry->name);
                              return serve_device(*arguments, example, context);
                            });
  verb->parse_complete_callback([&plan] { plan.log_warnings = true; });
  add_device_words(*verb, *arguments, true);
  arguments->place.add_to(*verb, entry.type != nullptr ? "where to serve it: vfio-user:PATH or vduse:NAME"
                                                       : "where to serve it: vfio-user:PATH");
}

}  // namespace

void add_serve(CLI::App& app, Plan& plan) {
  CLI::App* verb = app.add_subcommand("serve", "serve a device until SIGTERM or Ctrl-C");
  verb->require_subcommand(1);
  verb->footer(
      "Without --listen and --fd the socket comes from a service manager (LISTEN_FDS). A second client is refused while one\n"
      "is connected. SIGTERM and Ctrl-C finish what is in flight and remove the socket; a second one ends at once, and so\n"
      "do 10 s of waiting for storage that does not answer. SIGHUP makes the device look again at what stands behind it. A device on vduse:NAME is taken off the bus and removed in the end; one\n"
      "whose server was killed is taken over by the next one.\n\n"
      "Example:\n  outboard serve blk --image disk.raw --listen vfio-user:/run/blk.sock\n");
  for (const auto& entry : targets::device_table()) add_device(*verb, plan, entry);
  add_serve_pci(*verb, plan);
}

}  // namespace outboard::command
