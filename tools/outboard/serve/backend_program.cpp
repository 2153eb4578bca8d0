#include <tools/outboard/serve/backend_program.hpp>

#include <array>
#include <memory>

#include <fmt/format.h>

#include <tools/outboard/json.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/serve/device.hpp>

namespace outboard::command {

namespace {

constexpr std::string_view name_prefix = "outboard-vfio-user-";

/// The types of management software that differ from the name of the device here (QEMU, docs/interop/vhost-user.json:
/// VHostUserBackendType).
constexpr std::array<std::pair<std::string_view, std::string_view>, 1> types{{{"blk", "block"}}};

std::string_view type_of(std::string_view device) {
  for (const auto& [name, type] : types) {
    if (name == device) return type;
  }
  return device;
}

std::string name_of(const BackendProgram& program) { return fmt::format("{}{}", name_prefix, program.device->name); }

bool is_disk(const BackendProgram& program) { return program.type == "block"; }

Result<Exit> print_capabilities(const BackendProgram& program) {
  Json capabilities{{"type", program.type}};
  if (is_disk(program)) capabilities.set("features", std::vector<std::string>{"read-only", "blk-file"});
  OUTBOARD_CHECK(print(capabilities.text()));
  return Exit::done;
}

struct Arguments {
  ServeArguments serve;
  bool print_capabilities = false;
};

/// The option for the image in the conventions for vhost-user disks.
void add_blk_file(const Verb& root, OptionSet& set) {
  const auto take = [&set](const std::string& path) { return set.set("image", path); };
  root.add_option("--blk-file", take, "the same as --image").value_name("FILE").group("The device");
}

}  // namespace

std::optional<BackendProgram> backend_program(std::string_view name) {
  if (const auto slash = name.rfind('/'); slash != std::string_view::npos) name.remove_prefix(slash + 1);
  if (!name.starts_with(name_prefix)) return std::nullopt;
  const auto device = targets::find_device(name.substr(name_prefix.size()));
  if (!device) return std::nullopt;
  return BackendProgram{.device = *device, .type = type_of((*device)->name)};
}

CommandLine describe_backend_program(Plan& plan, const BackendProgram& program) {
  const auto arguments = std::make_shared<Arguments>();
  arguments->serve.entry = program.device;
  const std::string example = fmt::format("{}{} --socket-path=/run/{}.sock", name_of(program),
                                          is_disk(program) ? " --image=disk.raw" : "", program.device->name);
  CommandLine line(name_of(program), fmt::format("serves {} over vfio-user until SIGTERM", program.device->summary()));
  const Verb root = line.root();
  root.set_footer(
      "Follows the back-end program conventions of vfio-user (QEMU, docs/interop/vfio-user.rst).\n"
      "`outboard serve " +
      std::string(program.device->name) + "` is the same server.\n\nExample:\n  " + example + "\n");
  root.add_flag("-v,--verbose", plan.verbosity, "log what the library does to stderr; -vv: with debug lines");
  root.add_flag("--print-capabilities", arguments->print_capabilities,
                "print the type and the features of this program as JSON, and end");
  add_device_options(root, arguments->serve, false);
  if (is_disk(program)) add_blk_file(root, arguments->serve.options);
  arguments->serve.place.add_convention_to(root);
  plan.default_log = DefaultLog::warnings;
  plan.action = [arguments, program, example](Context& context) {
    return arguments->print_capabilities ? print_capabilities(program)
                                         : serve_device(arguments->serve, example, context);
  };
  return line;
}

}  // namespace outboard::command
