#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <optional>
#include <system_error>

#include <fmt/format.h>

#include <outboard/base/internal/shell_word.hpp>
#include <outboard/targets/device_table.hpp>
#include <tools/outboard/build_facts.hpp>
#include <tools/outboard/new/device.hpp>
#include <tools/outboard/new/name.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/usage_error.hpp>
#include <tools/outboard/verbs.hpp>

namespace outboard::command {

namespace {

namespace fs = std::filesystem;
using Form = NewDevice::Form;

struct NewArguments {
  std::string name;
  std::optional<std::string> checkout;
  std::optional<std::string> standalone;
  std::optional<std::uint32_t> device_id;
  bool assigned = false;
  bool dry_run = false;

  Form form() const { return standalone ? Form::standalone : Form::checkout; }
};

Result<fs::path> current_folder() {
  std::error_code error;
  fs::path folder = fs::current_path(error);
  if (error) return Error(error.value(), "the current directory cannot be found: " + error.message());
  return folder;
}

Result<fs::path> checkout_root(const NewArguments& arguments) {
  if (arguments.checkout) {
    std::error_code ignored;
    if (fs::path folder = fs::absolute(*arguments.checkout, ignored); is_checkout(folder)) return folder;
    return Error(ENOENT, "is not a checkout of Outboard")
        .on(*arguments.checkout)
        .cure("name the folder that holds `dev`");
  }
  OUTBOARD_TRY(const auto current, current_folder());
  auto found = find_checkout(current);
  if (found) return found;
  return Error(found.error())
      .cure("change into a checkout, name one with --checkout DIR, or make a project of its own with --standalone DIR");
}

/// DIR of --standalone: an empty folder, or one that does not exist yet.
Result<fs::path> standalone_root(const NewArguments& arguments) {
  const auto refuse = [&arguments](int code, const char* why) {
    return Error(code, why).on(*arguments.standalone).cure("choose a folder that does not exist, or an empty one");
  };
  std::error_code error;
  fs::path folder = fs::absolute(*arguments.standalone, error).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();  // DIR/
  const auto kind = fs::symlink_status(folder, error).type();
  if (kind == fs::file_type::not_found) {
    if (fs::is_directory(folder.parent_path(), error)) return folder;
    return Error(ENOENT, "the folder above it does not exist")
        .on(*arguments.standalone)
        .cure("create it: mkdir -p " + folder.parent_path().string());
  }
  if (!fs::is_directory(folder, error)) {
    if (error && error.value() != ENOENT) return Error(error.value(), error.message()).on(*arguments.standalone);
    return refuse(ENOTDIR, "is not a folder");
  }
  const bool empty = fs::is_empty(folder, error);
  if (error) return Error(error.value(), error.message()).on(*arguments.standalone);
  if (!empty) return refuse(ENOTEMPTY, "is not empty");
  return folder;
}

/// The device IDs of the device types that this build has, and their names.
std::map<std::uint32_t, std::string> built_in_device_ids() {
  std::map<std::uint32_t, std::string> used;
  for (const auto& entry : targets::device_table())
    if (entry.type != nullptr) used.emplace(entry.type->device_id, std::string(entry.name));
  return used;
}

Result<std::uint32_t> device_id_for(const NewArguments& arguments, const fs::path& root) {
  // A project of its own runs beside the library's devices, and the same guests load the drivers of both.
  const auto used = arguments.form() == Form::checkout ? used_device_ids(root) : built_in_device_ids();
  if (!arguments.device_id) return next_device_id(used);
  if (const auto other = used.find(*arguments.device_id); other != used.end())
    return usage_error(fmt::format("device ID {} is taken by device '{}'", other->first, other->second),
                       "leave --device-id out to use the next free ID");
  return *arguments.device_id;
}

/// Checks the arguments before anything is read or written.
Status check(const NewArguments& arguments) {
  if (auto name = check_device_name(arguments.name); !name) return as_usage_error(name.error());
  if (arguments.checkout == "") return usage_error("--checkout needs a folder");
  if (arguments.standalone == "") return usage_error("--standalone needs a folder");
  if (arguments.assigned && !arguments.device_id) return usage_error("--assigned needs --device-id");
  if (arguments.device_id)
    if (auto id = check_device_id(*arguments.device_id, arguments.assigned); !id) return as_usage_error(id.error());
  const auto same_name = [&](const auto& entry) { return entry.name == arguments.name; };
  if (arguments.form() == Form::standalone && std::ranges::any_of(targets::device_table(), same_name))
    return usage_error(fmt::format("Outboard has a device '{}'", arguments.name), "choose another name");
  return {};
}

/// The option that tells CMake where the library is installed, if CMake does not look there by default. This program is
/// installed with the library.
std::string prefix_option() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path prefix = program.parent_path().parent_path();
  if (error || prefix == "/usr" || prefix == "/usr/local") return {};
  if (!fs::exists(prefix / library_folder / "cmake/outboard/outboardConfig.cmake", error)) return {};
  return " -DCMAKE_PREFIX_PATH=" + prefix.string();
}

std::string next_steps(const NewDevice& device, const fs::path& root) {
  const std::string& name = device.name;
  const auto current = current_folder();
  std::string text = "\nNext:\n";
  if (!current || *current != root) text += fmt::format("  cd {}\n", shell_word(root.string()));
  if (device.form == Form::checkout) {
    text += fmt::format(
        "  ./dev build\n"
        "  ./dev test unit -R device_{0}            # the tests of the device\n"
        "  build/outboard serve {0} --listen vfio-user:/tmp/{0}.sock &\n"
        "  build/outboard show --wait 5 vfio-user:/tmp/{0}.sock\n"
        "  build/release/examples/example_read_{0} vfio-user:/tmp/{0}.sock 0\n"
        "  ./dev test system -R {0}                 # with the driver of a Linux guest\n"
        "outboard/devices/{0}/README.md describes the files.\n",
        name);
  } else {
    text += fmt::format(
        "  cmake -B build{1}\n"
        "  cmake --build build\n"
        "  ctest --test-dir build --output-on-failure   # the tests of the device\n"
        "  build/{0} serve --listen vfio-user:/tmp/{0}.sock &\n"
        "  outboard show --wait 5 vfio-user:/tmp/{0}.sock\n"
        "  build/{0} read vfio-user:/tmp/{0}.sock 0\n"
        "README.md describes the files.\n",
        name, prefix_option());
  }
  return text;
}

Status report(const NewArguments& arguments, const NewDevice& device, const FileSet& set) {
  std::string text = fmt::format("{} device {} with device ID {}, in {}:\n", arguments.dry_run ? "would make" : "made",
                                 device.name, device.device_id, set.root.string());
  for (const auto& file : set.files) text += fmt::format("  {}\n", file.path);
  if (!arguments.dry_run) text += next_steps(device, set.root);
  return print(text);
}

Result<Exit> make(const NewArguments& arguments) {
  OUTBOARD_CHECK(check(arguments));
  NewDevice device{.form = arguments.form(), .name = arguments.name};
  OUTBOARD_TRY(const auto root, device.form == Form::checkout ? checkout_root(arguments) : standalone_root(arguments));
  OUTBOARD_TRY(device.device_id, device_id_for(arguments, root));
  FileSet set = files_of(device);
  set.root = root;
  if (const auto available = check_free(set); !available)
    return Error(available.error()).cure("choose another name; nothing has been changed");
  if (!arguments.dry_run) OUTBOARD_CHECK(create_files(set));
  OUTBOARD_CHECK(report(arguments, device, set));
  return Exit::done;
}

}  // namespace

void add_new(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<NewArguments>();
  const Verb verb =
      add_verb(parent, plan, "new", "make a new virtio device type, ready to build and test",
               "outboard new thermometer                               # in the checkout around the current folder\n"
               "  outboard new thermometer --standalone ~/thermometer    # a project that uses the installed library\n"
               "  outboard new thermometer --dry-run                     # only list the files",
               [arguments](Context&) { return make(*arguments); });
  verb.add_option("NAME", arguments->name, "lower-case letters, digits and underscores, a letter first; at most 32")
      .required();
  const Option checkout = verb.add_option("--checkout", arguments->checkout,
                                          "checkout to make it in (default: the one around the current folder)")
                              .value_name("DIR");
  verb.add_option("--standalone", arguments->standalone,
                  "make a project of its own in DIR, which is empty or does not exist")
      .value_name("DIR")
      .excludes(checkout);
  verb.add_option("--device-id", arguments->device_id,
                  "virtio device ID, 1 to 63 (default: the highest one that no device of Outboard or the checkout has)")
      .value_name("N");
  verb.add_flag("--assigned", arguments->assigned,
                "allow a device ID that VIRTIO 1.4 assigns to a device type (1 to 49)");
  verb.add_flag("--dry-run", arguments->dry_run, "only list the files that would be made");
}

}  // namespace outboard::command
