#include <tools/outboard/backend_program.hpp>

#include <array>
#include <memory>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <tools/outboard/serve_device.hpp>

namespace outboard::command {

namespace {

constexpr std::string_view name_prefix = "outboard-vfio-user-";

/// Where the type that management software knows is not called as the device is here (QEMU, docs/interop/vhost-user.json:
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
  nlohmann::ordered_json capabilities{{"type", program.type}};
  if (is_disk(program)) capabilities["features"] = {"read-only", "blk-file"};
  OUTBOARD_CHECK(print(capabilities.dump(2) + "\n"));
  return Exit::done;
}

struct Arguments {
  ServeArguments serve;
  bool print_capabilities = false;
};

/// The image by its name in the conventions for vhost-user's disks.
void add_blk_file(CLI::App& app, OptionSet& words) {
  const auto set = [&words](const std::string& path) {
    if (const auto done = words.set("image", path); !done) throw CLI::ValidationError(done.error().message());
  };
  app.add_option_function<std::string>("--blk-file", set, "the same as --image")
      ->type_name("FILE")
      ->group("The device");
}

}  // namespace

std::optional<BackendProgram> backend_program(std::string_view name) {
  if (const auto slash = name.rfind('/'); slash != std::string_view::npos) name.remove_prefix(slash + 1);
  if (!name.starts_with(name_prefix)) return std::nullopt;
  const auto device = targets::find_device(name.substr(name_prefix.size()));
  if (!device) return std::nullopt;
  return BackendProgram{.device = *device, .type = type_of((*device)->name)};
}

void describe_backend_program(CLI::App& app, Plan& plan, const BackendProgram& program) {
  const auto arguments = std::make_shared<Arguments>();
  arguments->serve.entry = program.device;
  const std::string example = fmt::format("{}{} --socket-path=/run/{}.sock", name_of(program),
                                          is_disk(program) ? " --image=disk.raw" : "", program.device->name);
  app.name(name_of(program));
  app.description(fmt::format("serves {} over vfio-user until SIGTERM", program.device->summary()));
  app.footer(
      "Words and behaviour are those of the back-end program conventions of vfio-user (QEMU,\n"
      "docs/interop/vfio-user.rst). `outboard serve " +
      std::string(program.device->name) + "` is the same server.\n\nExample:\n  " + example + "\n");
  app.add_flag("-v,--verbose", plan.verbosity, "say what happens, on stderr; -vv: everything");
  app.add_flag("--print-capabilities", arguments->print_capabilities, "print what this program is, as JSON, and end");
  add_device_words(app, arguments->serve, false);
  if (is_disk(program)) add_blk_file(app, arguments->serve.words);
  arguments->serve.place.add_convention_to(app);
  plan.log_warnings = true;
  app.final_callback([&plan, arguments, program, example] {
    plan.action = [arguments, program, example](Context& context) {
      return arguments->print_capabilities ? print_capabilities(program)
                                           : serve_device(arguments->serve, example, context);
    };
  });
}

}  // namespace outboard::command
