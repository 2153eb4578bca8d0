#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <outboard/base/internal/disk_users.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <outboard/vduse/internal/netlink.hpp>
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

  /// Puts the VDUSE device on the bus and binds it to `driver`.
  ///
  /// Netlink stays usable even if the probe hangs: the bus's autoprobe is switched off while the device is added (under a lock
  /// of the machine; after a crash the next attach switches it on again), and the driver is bound through sysfs, so a probe
  /// that hangs blocks only this thread. If sysfs is not writable, the kernel binds the driver, and netlink waits for the
  /// probe. The log says at level `info` which way was used.
  ///
  /// Success means that a probe has ended, not that it succeeded: see child(). If a step fails, the device is taken off the bus
  /// again.
  ///
  /// EPERM: no CAP_NET_ADMIN; ENODEV: no management device (vduse not loaded), or no such driver on the bus (its module is
  /// not loaded), checked before anything is changed; EEXIST: a device of this name is on the bus; EINVAL: no such VDUSE
  /// device, or a queue of it was not set up; ENOENT: not the initial network namespace, or no vdpa; EBUSY: the kernel has
  /// bound it to another driver.
  ///
  /// If the device is on the bus without a driver, since a process was killed in this call, the driver is bound.
  Status attach(const std::string& name, BusDriver driver);
  /// Unbinds the driver, then takes the device off the bus. The driver waits for its requests, which the server must still
  /// serve meanwhile. ENODEV: the device is not on the bus.
  Status detach(const std::string& name);

  /// Whether the device is on the bus; also true during detach(), when its driver may have requests in flight.
  bool attached(std::string_view name) const;
  /// Whether the device is on the bus and not being detached, but no driver is bound to it, or none to its child.
  bool undriven(std::string_view name) const;
  /// The child device that the driver has made; nullopt: no driver is bound.
  std::optional<BusChild> child(std::string_view name) const;
  /// The users of the block device `disk` ("vda"): see users_of_disk(); and each process that has it, or a device that uses it,
  /// open: "process 12 (dd)".
  std::vector<std::string> users_of(std::string_view disk) const;
  /// Claims a disk that is not in use, so that nothing begins to use it while it is removed. EBUSY: it is in use; the error
  /// says by what. An empty descriptor: /dev has no node for it, or `made` is not a disk. EACCES, EMFILE and others: it cannot
  /// be opened, so it is unknown whether it is in use. If requests are in flight, opening it may wait for its server.
  Result<UniqueFd> claim_unused(std::string_view made) const;
  /// See outboard::is_on_disk() and path_is_on_disk().
  bool is_on(dev_t number, std::string_view disk) const {
    return is_on_disk(number, disk, options_.sysfs, options_.proc);
  }
  bool path_is_on(const std::string& path, std::string_view disk) const {
    return path_is_on_disk(path, disk, options_.sysfs, options_.proc);
  }
  /// The number of requests that the kernel has passed to the driver of the block device `disk` and that have not completed.
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
