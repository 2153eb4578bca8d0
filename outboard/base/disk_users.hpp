#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/base/file_holder.hpp>

/// Who a disk would be taken away from. `sysfs`, `proc` and `dev` stand for /sys, /proc and /dev. Any thread; calls do no I/O
/// on the disk, whose server may be dead.
namespace outboard {

/// A device of the kernel, as sysfs has it.
struct DeviceNode {
  enum class Kind : unsigned char { block, character };
  std::string name;  ///< "vda1"; of its node, too
  std::string number;  ///< "254:1"
  Kind kind = Kind::block;
};

/// The block device `disk` ("vda"), its partitions, and the block devices that stand on one of these, directly or not: device
/// mapper, md and other holders; loop devices on the disk, or on a file in a file system that is on it.
std::vector<DeviceNode> devices_on_disk(std::string_view disk, const std::string& sysfs = "/sys",
                                        const std::string& proc = "/proc");

/// Where these devices are used: mount points (of any mount namespace in which a process is), "swap", and the devices that
/// stand on `disk` by name ("dm-0", "loop0"), sorted. Processes: see openers_of().
std::vector<std::string> users_of_disk(std::string_view disk, const std::string& sysfs = "/sys",
                                       const std::string& proc = "/proc");

/// The block devices of which each claim is in the way of one on `device`: `device` itself, its partitions, and the disk that it is
/// a partition of.
std::vector<DeviceNode> devices_claimed_with(std::string_view device, const std::string& sysfs = "/sys");

/// Who keeps the block device `device` from being claimed (O_EXCL), as far as that is certain: mount points, "swap", and the devices
/// that hold it ("dm-0"); of a partition of it, or the disk that it is a partition of, with the name of that: "/data (on vda1)".
///
/// Not listed is what may have a claim or not: processes, see openers_of(), and loop devices, see loops_on(). Nor is a mount that
/// only has the device's name, which any user can give to a file system without a disk (tmpfs).
std::vector<std::string> claimants_of(std::string_view device, const std::string& sysfs = "/sys",
                                      const std::string& proc = "/proc");

/// The loop devices whose file is the node of `device`. The kernel does not claim it for them: they have a claim if whoever set
/// them up opened the node with O_EXCL.
std::vector<std::string> loops_on(std::string_view device, const std::string& sysfs = "/sys");

/// Whether the block device, or file system, of this number (st_rdev, st_dev) is on `disk`, as devices_on_disk() says.
bool is_on_disk(dev_t number, std::string_view disk, const std::string& sysfs = "/sys",
                const std::string& proc = "/proc");

/// Whether the file of this absolute path is, or would be, in a file system on `disk`. Looks at the mounts of this process and
/// never at the file. Links are not followed.
bool path_is_on_disk(const std::string& path, std::string_view disk, const std::string& sysfs = "/sys",
                     const std::string& proc = "/proc");

/// A process that has a device open: a virtual machine, a database, dd.
struct DeviceOpener {
  Holder process;
  std::string device;  ///< its name
};
/// By number, whatever the node is called that was opened; other processes than this one, and those whose descriptors this
/// user may see. The first one of each process.
std::vector<DeviceOpener> openers_of(const std::vector<DeviceNode>& devices, const std::string& proc = "/proc",
                                     const std::string& dev = "/dev");

/// Claims a disk for this process alone, as mounting does, until the descriptor is closed. EBUSY: something has claimed it
/// already, perhaps something that has no name anywhere else: ZFS, a file system of a namespace without processes. What else
/// opening its node says: ENOENT, EACCES.
Result<UniqueFd> claim_disk(std::string_view disk, const std::string& dev = "/dev");

}  // namespace outboard
