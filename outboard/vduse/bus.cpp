#include <outboard/vduse/bus.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/base/internal/attribute_file.hpp>
#include <outboard/base/internal/file_holder.hpp>
#include <outboard/vduse/internal/bus_files.hpp>

namespace outboard::vduse {
namespace {

namespace fs = std::filesystem;

/// The names in a folder, sorted; none when it cannot be read.
std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code hidden;
  for (const auto& entry : fs::directory_iterator(folder, hidden)) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

bool exists(const std::string& path) {
  std::error_code hidden;
  return fs::exists(path, hidden);
}

/// What a driver of the kernel has made of a virtio device, as far as it is known here.
std::string made_by(const std::string& virtio_device) {
  for (const char* kind : {"block", "net"}) {
    const auto names = names_in(virtio_device + "/" + kind);
    if (!names.empty()) return names.front();
  }
  return {};
}

const char* module_of(BusDriver driver) { return name_of(driver); }

}  // namespace

const char* name_of(BusDriver driver) { return driver == BusDriver::virtio ? "virtio_vdpa" : "vhost_vdpa"; }

Bus::Bus(Options options) : options_(std::move(options)) {
  if (!options_.netlink) options_.netlink = Netlink::of_kernel();
}

/// The bus forgets a device before the driver lets go of it, which may take until the next server has answered what is in
/// flight; below the VDUSE device that it is of it stays until it has gone.
std::string Bus::device_path(std::string_view name) const {
  std::string on_bus = fmt::format("{}/bus/vdpa/devices/{}", options_.sysfs, name);
  if (exists(on_bus)) return on_bus;
  std::string going = fmt::format("{}/class/vduse/{}/{}", options_.sysfs, name, name);
  return exists(going) ? going : on_bus;
}

std::string Bus::driver_path(BusDriver driver) const {
  return fmt::format("{}/bus/vdpa/drivers/{}", options_.sysfs, name_of(driver));
}

/// The name of the driver that a device on the bus is bound to; empty: none.
std::string Bus::child_driver(std::string_view name) const {
  std::error_code hidden;
  return fs::read_symlink(device_path(name) + "/driver", hidden).filename().string();
}

// Attach and detach.

Status Bus::attach(const std::string& name, BusDriver driver) {
  OUTBOARD_CHECK(check_name(name));
  const Log& log = options_.log;
  const std::string bus = options_.sysfs + "/bus/vdpa";
  if (!exists(bus)) return add_error(ENOENT, name, {});
  if (!exists(driver_path(driver))) {
    return Error(ENODEV, fmt::format("the vDPA bus has no driver {}: its module is not loaded", name_of(driver)))
        .on(name)
        .cure(fmt::format("modprobe {}", module_of(driver)));
  }
  auto quiet = QuietBus::possible(bus) ? QuietBus::begin(bus, options_.run, log)
                                       : Result<QuietBus>(Error(EACCES, bus + " cannot be written to"));
  if (!quiet) {
    log.info("{}: {}: the kernel binds a driver by itself, and netlink waits for its probe", name,
             quiet.error().message());
    return attach_plain(name, driver);
  }
  const bool there = undriven(name);
  if (there) {
    log.info("{}: on the vDPA bus without a driver, now bound to {}", name, name_of(driver));
  } else {
    log.info("{}: added to the vDPA bus with autoprobe off, then bound to {}", name, name_of(driver));
  }
  const Status added = there ? Status() : options_.netlink->add(name);
  if (const auto restored = quiet->restore(); !restored)
    log.error("the autoprobe of the vDPA bus stays off: {}; mend it: echo 1 >{}/drivers_autoprobe",
              restored.error().message(), bus);
  OUTBOARD_CHECK(added);
  if (const std::string before = child_driver(name); there && !before.empty()) {
    const std::string unbind = fmt::format("{}/bus/vdpa/drivers/{}/unbind", options_.sysfs, before);
    OUTBOARD_CHECK(write_attribute_apart(unbind, name));
  }
  // Nobody else waits for what follows.
  {
    const QuietBus done = std::move(*quiet);
  }
  return bind(name, driver);
}

/// The driver is named first, so that no other one takes the device in between.
Status Bus::bind(const std::string& name, BusDriver driver) {
  auto bound = write_attribute(device_path(name) + "/driver_override", name_of(driver));
  if (bound) bound = write_attribute_apart(driver_path(driver) + "/bind", name);
  if (bound || child_driver(name) == name_of(driver)) return {};
  if (const auto removed = options_.netlink->remove(name); !removed)
    options_.log.error("{}: it stays on the vDPA bus: {}", name, removed.error().message());
  return Error(bound.error()).while_doing(fmt::format("{}: binding it to {}", name, name_of(driver)));
}

Status Bus::attach_plain(const std::string& name, BusDriver driver) {
  OUTBOARD_CHECK(options_.netlink->add(name));
  const std::string taken = child_driver(name);
  if (taken.empty() || taken == name_of(driver)) return {};
  if (const auto removed = options_.netlink->remove(name); !removed)
    options_.log.error("{}: it stays on the vDPA bus: {}", name, removed.error().message());
  return Error(EBUSY, fmt::format("the kernel gave the device to {} and not to {}", taken, name_of(driver)))
      .on(name)
      .cure(fmt::format("attach it as root; or unload {} while this runs", taken));
}

Status Bus::detach(const std::string& name) {
  OUTBOARD_CHECK(check_name(name));
  if (!attached(name)) return remove_error(ENODEV, name, {});
  warn_of_vhost_user(name);
  if (const std::string driver = child_driver(name); !driver.empty()) {
    const std::string unbind = fmt::format("{}/bus/vdpa/drivers/{}/unbind", options_.sysfs, driver);
    options_.log.info("{}: unbound from {}, then taken off the vDPA bus", name, driver);
    if (const auto done = write_attribute_apart(unbind, name); !done && !child_driver(name).empty())
      options_.log.info("{}: {}: netlink waits until the driver has let go", name, done.error().message());
  }
  return options_.netlink->remove(name);
}

/// VDUSE-51: the kernel waits for whoever has the device open, and nothing but that process can end it.
void Bus::warn_of_vhost_user(const std::string& name) const {
  const auto found = child(name);
  if (!found || found->driver != BusDriver::vhost) return;
  const std::string node = options_.dev + "/" + found->name;
  if (const auto holder = holder_of(node, options_.proc))
    options_.log.warning("{}: waiting until process {} ({}) closes {}", name, holder->pid, holder->command, node);
}

// What there is.

bool Bus::attached(std::string_view name) const { return check_name(name) && exists(device_path(name)); }

bool Bus::undriven(std::string_view name) const {
  if (!check_name(name) || !exists(fmt::format("{}/bus/vdpa/devices/{}", options_.sysfs, name))) return false;
  // A probe whose caller was killed leaves a child that no driver of the kernel has.
  const auto found = child(name);
  return child_driver(name).empty() || (found && !found->bound);
}

std::optional<BusChild> Bus::child(std::string_view name) const {
  if (!check_name(name)) return std::nullopt;
  for (const std::string& entry : names_in(device_path(name))) {
    const std::string path = device_path(name) + "/" + entry;
    if (entry.starts_with("vhost-vdpa-")) return BusChild{BusDriver::vhost, entry, true, entry};
    if (entry.starts_with("virtio") && entry.size() > 6)
      return BusChild{BusDriver::virtio, entry, exists(path + "/driver"), made_by(path)};
  }
  return std::nullopt;
}

std::vector<std::string> Bus::devices() const {
  auto names = names_in(options_.sysfs + "/class/vduse");
  std::erase(names, "control");
  return names;
}

std::vector<std::string> Bus::users_of(std::string_view disk) const {
  auto users = users_of_disk(disk, options_.sysfs, options_.proc);
  const auto devices = devices_on_disk(disk, options_.sysfs, options_.proc);
  for (const auto& opener : openers_of(devices, options_.proc, options_.dev))
    users.push_back(fmt::format("process {} ({})", opener.process.pid, opener.process.command));
  return users;
}

Result<UniqueFd> Bus::claim_unused(std::string_view made) const {
  // A network interface is in no such folder.
  if (!exists(fmt::format("{}/class/block/{}", options_.sysfs, made))) return UniqueFd();
  if (const auto users = users_of(made); !users.empty()) return Error(EBUSY, fmt::format("{}", fmt::join(users, ", ")));
  auto claim = claim_disk(made, options_.dev);
  if (!claim && claim.error().code() == EBUSY)
    return Error(EBUSY, fmt::format("something that has claimed it: fuser -v /dev/{0}, lsblk /dev/{0}", made));
  // No node for it here, as in a container: then what can be seen is all that can be known.
  const bool no_node = !claim && (claim.error().code() == ENOENT || claim.error().code() == ENXIO);
  if (no_node) return UniqueFd();
  return claim;
}

unsigned Bus::in_flight(std::string_view disk) const {
  std::istringstream counts(read_attribute(fmt::format("{}/class/block/{}/inflight", options_.sysfs, disk)));
  unsigned reads = 0, writes = 0;
  counts >> reads >> writes;
  return reads + writes;
}

}  // namespace outboard::vduse
