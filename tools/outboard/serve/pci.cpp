#include <tools/outboard/serve/pci.hpp>

#include <outboard/targets/passthrough_service.hpp>
#include <outboard/targets/target.hpp>
#include <tools/outboard/device_options.hpp>

namespace outboard::command {

namespace {

constexpr const char* example_line = "outboard serve pci --device vfio:0000:00:04.0 --listen vfio-user:/run/nvme.sock";

}  // namespace

Result<Exit> serve_pci(const PciArguments& arguments, Context& context) {
  OUTBOARD_TRY(auto socket, arguments.place.socket(example_line));
  OUTBOARD_TRY(auto handle, arguments.device.open(context, targets::Purpose::forward));
  arguments.place.bound_start("pci", context);
  OUTBOARD_TRY(const auto service,
               targets::serve_passthrough(std::move(handle), arguments.options, arguments.place.listener,
                                          arguments.place.options(context, std::move(socket))));
  return arguments.place.run(*service, "pci", context);
}

void add_serve_pci(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<PciArguments>();
  const Verb verb = add_verb(
      parent, plan, "pci", "export a PCI function to a virtual machine or another process", example_line,
      [arguments](Context& context) { return arguments->device.name_in(serve_pci(*arguments, context)); },
      DefaultLog::warnings);
  arguments->device.add_to(verb, "--device");
  for (const auto& option : targets::passthrough_options())
    add_option_to(verb, option, arguments->options, "How it is exported");
  arguments->place.add_to(verb, "where to serve it: vfio-user:PATH");
  verb.prepend_footer(
      "DMA of the device reaches the memory of the client and no other. The client must share that memory (QEMU:\n"
      "-object memory-backend-memfd,share=on), and this process must be allowed to lock it (ulimit -l).\n"
      "The client sees a filtered configuration space, and its register accesses go through this process. With\n"
      "--trust-client it gets the device's file and can do all that this process can do (docs/security.md).\n"
      "The device is reset between two clients. When the device is to be unplugged or unbound, the client is told; after\n"
      "--unplug-deadline the device is given back in any case, and the exit status is 1.");
}

}  // namespace outboard::command
