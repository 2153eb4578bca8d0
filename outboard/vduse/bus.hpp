#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <outboard/base/disk_users.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <outboard/vduse/netlink.hpp>
#include <outboard/vduse/node.hpp>

namespace outboard::vduse {

/// Who drives a device on the vDPA bus.
enum class BusDriver : unsigned char {
  virtio,  ///< virtio_vdpa: a driver of this kernel (virtio_blk: /dev/vdX)
  vhost,   ///< vhost_vdpa: a VMM or a program, by /dev/vhost-vdpa-N
};

/// "virtio_vdpa", "vhost_vdpa".
const char* name_of(BusDriver driver);

/// What sits on a vDPA device.
struct BusChild {
  BusDriver driver = BusDriver::virtio;
  std::string name;  ///< "virtio3", "vhost-vdpa-0"
  /// virtio: whether a driver of the kernel is bound to the child, and what it has made ("vda", "eth1"), if anything yet.
  bool bound = false;
  std::string made;
};

/// The kernel's vDPA bus: generic netlink family `vdpa`, and /sys/bus/vdpa. Calls block, attach() and detach() for as long
/// as a driver's whole probe or removal takes, with the device being served meanwhile: call them on a thread that serves
/// nothing, and never kill that thread's process meanwhile. Any thread.
class Bus {
 public:
  struct Options {
    std::string sysfs = "/sys";
    std::string proc = "/proc";
    std::string dev = "/dev";
    std::string run = "/run/outboard";  ///< for a lock that all who attach on this machine share
    std::shared_ptr<Netlink> netlink{};  ///< null: the kernel's
    Log log{};
  };
  Bus() : Bus(Options{}) {}
  explicit Bus(Options options);
  const Options& options() const { return options_; }

  /// Puts the VDUSE device on the bus and lets `driver` take it.
  ///
  /// In steps that leave netlink usable whatever becomes of the probe: the bus's autoprobe is off for the moment in which
  /// the device is added (under a lock of the machine, and put back even after a crash: by the next attach), then the
  /// driver is bound by sysfs: a probe that hangs blocks this thread and nobody else. Where sysfs cannot be written the
  /// kernel binds, and netlink waits with it. The log says at `info` which way was taken.
  ///
  /// Success says that a probe has ended, not how: look at child(). When a step fails the device is off the bus again.
  ///
  /// EPERM: no CAP_NET_ADMIN; ENODEV: no management device (vduse not loaded), or no such driver on the bus (its module is
  /// not loaded), found out before anything is changed; EEXIST: a device of this name is on the bus; EINVAL: no such VDUSE
  /// device, or a queue of it was not set up; ENOENT: not the initial network namespace, or no vdpa; EBUSY: the kernel has
  /// given it to another driver.
  ///
  /// A device that is on the bus and has no driver, since a process was killed in the middle of this, is given one.
  Status attach(const std::string& name, BusDriver driver);
  /// Takes the driver off (it finishes its requests, which somebody must go on serving), then the device off the bus.
  /// ENODEV: it is not there.
  Status detach(const std::string& name);

  /// Also true while it is being taken off: its driver may have requests in flight then.
  bool attached(std::string_view name) const;
  /// Whether it is on the bus, is not being taken off, and no driver of the bus has it, or none the child that it has made.
  bool undriven(std::string_view name) const;
  /// Nothing: no driver has taken it.
  std::optional<BusChild> child(std::string_view name) const;
  /// Who uses the block device `disk` ("vda"): see users_of_disk(); and each process that has it, or what stands on it, open:
  /// "process 12 (dd)".
  std::vector<std::string> users_of(std::string_view disk) const;
  /// Keeps a disk that nobody uses from being used while it is taken away: claims it. EBUSY: somebody uses it, and who.
  /// Nothing where /dev has no node for it, or `made` is no disk. Whatever else keeps it from being opened (EACCES, EMFILE) is an
  /// error: nobody knows whether it is used. Opening it may wait for its server where requests are in flight.
  Result<UniqueFd> claim_unused(std::string_view made) const;
  /// See outboard::is_on_disk() and path_is_on_disk().
  bool is_on(dev_t number, std::string_view disk) const {
    return is_on_disk(number, disk, options_.sysfs, options_.proc);
  }
  bool path_is_on(const std::string& path, std::string_view disk) const {
    return path_is_on_disk(path, disk, options_.sysfs, options_.proc);
  }
  /// Requests that the kernel has given to the driver of the block device `disk` and that have not come back.
  unsigned in_flight(std::string_view disk) const;
  /// All VDUSE devices of the machine, by name (/sys/class/vduse).
  std::vector<std::string> devices() const;

 private:
  std::string device_path(std::string_view name) const;
  std::string driver_path(BusDriver driver) const;
  std::string child_driver(std::string_view name) const;
  Status bind(const std::string& name, BusDriver driver);
  Status attach_plain(const std::string& name, BusDriver driver);
  void warn_of_vhost_user(const std::string& name) const;

  Options options_;
};

}  // namespace outboard::vduse
