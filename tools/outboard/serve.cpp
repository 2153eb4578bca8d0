#include <fmt/format.h>

#include <outboard/targets/device_table.hpp>
#include <outboard/targets/service.hpp>
#include <outboard/targets/transport_words.hpp>
#include <tools/outboard/command.hpp>
#include <tools/outboard/device_words.hpp>
#include <tools/outboard/serve_pci.hpp>
#include <tools/outboard/serve_place.hpp>

namespace outboard::command {

namespace {

struct ServeArguments {
  const targets::DeviceEntry* entry = nullptr;
  OptionSet words;
  ServePlace place;
};

Result<Exit> serve(const ServeArguments& arguments, Context& context) {
  const auto& [entry, words, place] = arguments;
  OUTBOARD_TRY(auto socket, place.socket(fmt::format("outboard serve {} --listen vfio-user:PATH", entry->name)));
  OUTBOARD_TRY(const auto service, targets::serve(*entry, words, place.listener, {context.log, std::move(socket)}));
  return place.run(*service, entry->name, context);
}

/// How a device is run depends on what it is: a virtio device has rings, and can be on the vDPA bus.
void add_words(CLI::App& verb, const targets::DeviceEntry& entry, OptionSet& words) {
  for (const auto& word : entry.options()) add_word(verb, word, words, "The device");
  const bool is_virtio = entry.type != nullptr;
  for (const auto& word : is_virtio ? targets::transport_words() : targets::function_words())
    add_word(verb, word, words, "How it is run");
  if (!is_virtio) return;
  for (const auto& word : targets::vduse_words()) add_word(verb, word, words, "On vduse:NAME");
}

void add_device(CLI::App& serve_verb, Plan& plan, const targets::DeviceEntry& entry) {
  const auto arguments = std::make_shared<ServeArguments>();
  arguments->entry = &entry;
  const std::string name(entry.name);
  const std::string words = entry.name == "blk" ? " --image disk.raw" : "";
  CLI::App* verb = add_verb(serve_verb, plan, name, std::string(entry.summary()),
                            fmt::format("outboard serve {}{} --listen vfio-user:/run/{}.sock", name, words, name),
                            [arguments](Context& context) { return serve(*arguments, context); });
  verb->parse_complete_callback([&plan] { plan.log_warnings = true; });
  add_words(*verb, entry, arguments->words);
  arguments->place.add_to(*verb, entry.type != nullptr ? "where to serve it: vfio-user:PATH or vduse:NAME"
                                                       : "where to serve it: vfio-user:PATH");
}

}  // namespace

void add_serve(CLI::App& app, Plan& plan) {
  CLI::App* verb = app.add_subcommand("serve", "serve a device until SIGTERM or Ctrl-C");
  verb->require_subcommand(1);
  verb->footer(
      "Without --listen and --fd the socket comes from a service manager (LISTEN_FDS). A second client is refused while one\n"
      "is connected. SIGTERM and Ctrl-C finish what is in flight and remove the socket; a second one ends at once. SIGHUP makes\n"
      "the device look again at what stands behind it. A device on vduse:NAME is taken off the bus and removed in the end; one\n"
      "whose server was killed is taken over by the next one.\n\n"
      "Example:\n  outboard serve blk --image disk.raw --listen vfio-user:/run/blk.sock\n");
  for (const auto& entry : targets::device_table()) add_device(*verb, plan, entry);
  add_serve_pci(*verb, plan);
}

}  // namespace outboard::command
