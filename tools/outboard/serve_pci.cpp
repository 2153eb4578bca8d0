#include <tools/outboard/serve_pci.hpp>

#include <outboard/targets/passthrough_service.hpp>
#include <outboard/targets/target.hpp>
#include <tools/outboard/device_words.hpp>
#include <tools/outboard/serve_place.hpp>

namespace outboard::command {

namespace {

constexpr const char* example = "outboard serve pci --device vfio:0000:00:04.0 --listen vfio-user:/run/nvme.sock";

struct PciArguments {
  TargetArguments device;
  OptionSet words{OptionSet::Syntax::command_line};
  ServePlace place;
};

Result<Exit> serve_pci(const PciArguments& arguments, Context& context) {
  OUTBOARD_TRY(auto socket, arguments.place.socket(example));
  OUTBOARD_TRY(auto handle, arguments.device.open(context, targets::Purpose::forward));
  arguments.place.bound_start("pci", context);
  OUTBOARD_TRY(const auto service,
               targets::serve_passthrough(std::move(handle), arguments.words, arguments.place.listener,
                                          arguments.place.options(context, std::move(socket))));
  return arguments.place.run(*service, "pci", context);
}

}  // namespace

void add_serve_pci(CLI::App& serve_verb, Plan& plan) {
  const auto arguments = std::make_shared<PciArguments>();
  CLI::App* verb = add_verb(
      serve_verb, plan, "pci", "a PCI function that this process drives, for a virtual machine or another process",
      example, [arguments](Context& context) { return arguments->device.name_in(serve_pci(*arguments, context)); });
  verb->parse_complete_callback([&plan] { plan.log_warnings = true; });
  arguments->device.add_to(*verb, "--device");
  for (const auto& word : targets::passthrough_words()) add_word(*verb, word, arguments->words, "How it is exported");
  arguments->place.add_to(*verb, "where to serve it: vfio-user:PATH");
  verb->footer(
      std::string(
          "The device does its DMA in the memory of whoever connects, and in no other: the client has to share that\n"
          "memory (QEMU: -object memory-backend-memfd,share=on), and this process to be allowed to lock it (ulimit -l).\n"
          "What the client sees of configuration space is filtered, and registers are reached through this process. With\n"
          "--trust-client it gets the device's own file, and with it all that this process may do (docs/security.md).\n"
          "Between two clients the device is reset. When it is to be unplugged or unbound, the client is told, and after\n"
          "the deadline the device is given back whatever it does; then this ends with exit status 1.\n\n"
          "Example:\n  ") +
      example + "\n");
}

}  // namespace outboard::command
