#include <fmt/format.h>

#include <outboard/targets/device_table.hpp>
#include <outboard/targets/vduse_service.hpp>
#include <tools/outboard/serve/device.hpp>
#include <tools/outboard/serve/pci.hpp>
#include <tools/outboard/verbs.hpp>

namespace outboard::command {

namespace {

void add_device(const Verb& parent, Plan& plan, const targets::DeviceEntry& entry) {
  const auto arguments = std::make_shared<ServeArguments>();
  arguments->entry = &entry;
  const std::string name(entry.name);
  const std::string image = entry.name == "blk" ? " --image disk.raw" : "";
  const bool with_vduse = entry.type != nullptr && targets::vduse_takes(*entry.type);
  const Verb verb = add_verb(
      parent, plan, name, std::string(entry.summary()),
      fmt::format("outboard serve {}{} --listen vfio-user:/run/{}.sock", name, image, name),
      [arguments](Context& context) {
        const auto example = fmt::format("outboard serve {} --listen vfio-user:PATH", arguments->entry->name);
        return serve_device(*arguments, example, context);
      },
      DefaultLog::warnings);
  add_device_options(verb, *arguments, with_vduse);
  arguments->place.add_to(
      verb, with_vduse ? "where to serve it: vfio-user:PATH or vduse:NAME" : "where to serve it: vfio-user:PATH");
}

}  // namespace

void add_serve(const Verb& parent, Plan& plan) {
  const Verb verb = parent.add_group(
      "serve", "serve a device, until SIGTERM or Ctrl-C",
      "Without --listen and --fd, the socket comes from a service manager (LISTEN_FDS). While a client is connected,\n"
      "others are refused.\n"
      "SIGTERM and Ctrl-C finish the requests in flight, for at most 10 s if the storage does not answer, and remove the\n"
      "socket, or the device of vduse:NAME. A second one ends the server at once. SIGHUP makes a disk read the size of its\n"
      "image again. If the server of vduse:NAME is killed, the next server takes its device over.\n\n"
      "Example:\n  outboard serve blk --image disk.raw --listen vfio-user:/run/blk.sock\n");
  for (const auto& entry : targets::device_table()) add_device(verb, plan, entry);
  add_serve_pci(verb, plan);
}

}  // namespace outboard::command
