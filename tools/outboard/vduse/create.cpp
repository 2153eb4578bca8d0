#include <tools/outboard/vduse/create.hpp>

#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>

#include <fmt/format.h>

#include <outboard/base/reactor.hpp>
#include <outboard/targets/device_table.hpp>
#include <outboard/targets/transport_options.hpp>
#include <outboard/targets/vduse_service.hpp>
#include <outboard/vduse/control.hpp>
#include <outboard/vduse/export.hpp>
#include <tools/outboard/device_options.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/usage_error.hpp>
#include <tools/outboard/vduse/places.hpp>

/// `vduse create`: makes a device for a server that may not make it itself.
namespace outboard::command {

namespace {

struct CreateArguments {
  const virtio::DeviceType* type = nullptr;
  std::string name;
  OptionSet options{OptionSet::Syntax::command_line};
  std::string owner;
};

/// The options of VDUSE that are part of the device; the others are about serving it.
constexpr std::array<std::string_view, 2> shape_options{"api", "group-each-queue"};

template <typename Number>
std::optional<Number> as_number(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

Result<uid_t> user_of(const std::string& name) {
  if (const auto number = as_number<uid_t>(name)) return *number;
  // No other thread of this program calls getpwnam().
  const passwd* found = ::getpwnam(name.c_str());  // NOLINT(concurrency-mt-unsafe)
  if (found == nullptr) return Error(EINVAL, fmt::format("there is no user '{}'", name)).on("--owner");
  return found->pw_uid;
}

Result<gid_t> group_of(const std::string& name) {
  if (const auto number = as_number<gid_t>(name)) return *number;
  const group* found = ::getgrnam(name.c_str());  // NOLINT(concurrency-mt-unsafe): as above
  if (found == nullptr) return Error(EINVAL, fmt::format("there is no group '{}'", name)).on("--owner");
  return found->gr_gid;
}

Status give(const std::string& path, const Owner& owner) {
  static constexpr auto unchanged = static_cast<uid_t>(-1);
  if (::lchown(path.c_str(), owner.user.value_or(unchanged), owner.group.value_or(unchanged)) != 0)
    return Error::from_errno("changing its owner").on(path);
  // A group that is named may use it.
  if (owner.group && ::chmod(path.c_str(), S_IRUSR | S_IWUSR | S_IRGRP | S_IWGRP) != 0)
    return Error::from_errno("changing its permissions").on(path);
  return {};
}

/// Makes the device as the server will make it, for its shape alone.
Result<vduse::DeviceShape> shape_of(const CreateArguments& arguments, const vduse::Export::Options& options,
                                    OptionSet set, const Log& log) {
  OUTBOARD_TRY(const auto loop, Reactor::create());
  OUTBOARD_TRY(auto device, arguments.type->make(set, *loop, log));
  OUTBOARD_TRY(const auto exported, vduse::Export::create(std::move(device), *loop, options));
  return exported->shape(arguments.name);
}

Status hand_over(const CreateArguments& arguments, const std::optional<Owner>& owner, const Context& context) {
  unsigned left = 100;
  const auto pause = [&] { return left-- > 0 && context.stop.pause(std::chrono::milliseconds(20)); };
  OUTBOARD_CHECK(vduse::wait_for_node(arguments.name, pause));
  if (!owner) return {};
  OUTBOARD_CHECK(give(fmt::format("{}/{}", vduse::device_folder, arguments.name), *owner));
  // The owner cannot create the lock file in root's folder, so it gets one that is its own.
  return give(vduse_lock(arguments.name), *owner);
}

Result<Exit> create(const CreateArguments& arguments, Context& context) {
  if (const auto good = vduse::check_name(arguments.name); !good) return as_usage_error(good.error());
  std::optional<Owner> owner;
  if (!arguments.owner.empty()) {
    OUTBOARD_TRY(owner, parse_owner(arguments.owner));
  }
  OptionSet set = arguments.options;
  OUTBOARD_TRY(const auto options, targets::take_vduse_options(set, arguments.name, context.log));
  OUTBOARD_TRY(const auto shape, shape_of(arguments, options.device, std::move(set), context.log));
  OUTBOARD_CHECK(vduse::check_shape(shape, options.device.api_version));
  OUTBOARD_TRY(auto control, vduse::Control::open(options.device.api_version));
  OUTBOARD_TRY(const auto lock, take_vduse_lock(arguments.name));
  OUTBOARD_CHECK(control.create(shape));
  if (const auto done = hand_over(arguments, owner, context); !done) {
    if (const auto removed = control.destroy(arguments.name); !removed)
      context.log.error("{}", removed.error().message());
    return done.error();
  }
  OUTBOARD_CHECK(print(fmt::format("{}: created; serve it with the same options\n", arguments.name)));
  return Exit::done;
}

void add_type(const Verb& parent, Plan& plan, const virtio::DeviceType& type) {
  const auto arguments = std::make_shared<CreateArguments>();
  arguments->type = &type;
  const std::string name(type.name);
  const std::string image = type.name == "blk" ? " --image disk.raw" : "";
  const Verb verb = add_verb(
      parent, plan, name, std::string(type.summary),
      fmt::format("outboard vduse create {} {}0{} --owner disks", name, name, image),
      [arguments](Context& context) { return create(*arguments, context); }, DefaultLog::warnings);
  verb.add_option("NAME", arguments->name, "name of the device and of its node, /dev/vduse/NAME").required();
  verb.add_option("--owner", arguments->owner, "user, or user and group, that may serve the device")
      .value_name("USER[:GROUP]");
  for (const auto& option : type.options) add_option_to(verb, option, arguments->options, "The device");
  for (const auto& option : targets::transport_options()) {
    if (!targets::is_pci_option(option.name)) add_option_to(verb, option, arguments->options, "How it is run");
  }
  for (const auto& option : targets::vduse_options()) {
    if (std::ranges::find(shape_options, option.name) != shape_options.end())
      add_option_to(verb, option, arguments->options, "How it is run");
  }
}

}  // namespace

Result<Owner> parse_owner(std::string_view text) {
  const std::size_t colon = text.find(':');
  const std::string user(text.substr(0, colon));
  const std::string group(colon == std::string_view::npos ? "" : text.substr(colon + 1));
  Owner owner;
  if (!user.empty()) {
    OUTBOARD_TRY(owner.user, user_of(user));
  }
  if (!group.empty()) {
    OUTBOARD_TRY(owner.group, group_of(group));
  }
  if (!owner.user && !owner.group)
    return Error(EINVAL, fmt::format("'{}' names neither a user nor a group", text))
        .on("--owner")
        .cure("use --owner USER[:GROUP]");
  return owner;
}

void add_vduse_create(const Verb& parent, Plan& plan) {
  const Verb verb = parent.add_group(
      "create", "make a device for a server that does not run as root",
      "Give the options that the server will be given: `outboard serve` refuses a device of another shape. The server finds\n"
      "the device by its name and needs no right except to the node; root puts the device on the bus.\n\n"
      "Example:\n"
      "  outboard vduse create blk disk0 --image /srv/disk.raw --owner disks\n"
      "  setpriv --reuid disks ... outboard serve blk --image /srv/disk.raw --listen vduse:disk0 --no-attach \\\n"
      "    --journal /run/disks/disk0.journal\n"
      "  vdpa dev add name disk0 mgmtdev vduse\n");
  for (const auto& entry : targets::device_table()) {
    if (entry.type != nullptr && targets::vduse_takes(*entry.type)) add_type(verb, plan, *entry.type);
  }
}

}  // namespace outboard::command
