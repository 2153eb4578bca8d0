#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/base/internal/file_holder.hpp>

/// The users of a disk: mounts, swap, other block devices, processes. `sysfs`, `proc` and `dev` are the paths of /sys, /proc
/// and /dev. Any thread. The calls do no I/O on the disk, whose server may be dead.
namespace outboard {

/// A block device, as in sysfs.
struct DeviceNode {
  enum class Kind : unsigned char { block, character };
  std::string name;  ///< "vda1"; also the name of its node
  std::string number;  ///< "254:1"
  Kind kind = Kind::block;
};

/// The block device `disk` ("vda"), its partitions, and the block devices that use one of these, directly or indirectly: device
/// mapper, md and other holders, and loop devices on the disk or on a file in a file system on it.
std::vector<DeviceNode> devices_on_disk(std::string_view disk, const std::string& sysfs = "/sys",
                                        const std::string& proc = "/proc");

/// The uses of these devices: mount points (of any mount namespace in which a process is), "swap", and the names of the devices
/// that use `disk` ("dm-0", "loop0"), sorted. For processes see openers_of().
std::vector<std::string> users_of_disk(std::string_view disk, const std::string& sysfs = "/sys",
                                       const std::string& proc = "/proc");

/// The block devices whose claims conflict with a claim on `device`: `device` itself, its partitions, and the disk that it is a
/// partition of.
std::vector<DeviceNode> devices_claimed_with(std::string_view device, const std::string& sysfs = "/sys");

/// The users that certainly have a claim (O_EXCL) on the block device `device`: mount points, "swap", and the devices that hold
/// it ("dm-0"). Those of its partitions, or of the disk that it is a partition of, are given with the device's name: "/data (on
/// vda1)".
///
/// Processes and loop devices are not listed, since they may or may not have a claim: see openers_of() and loops_on(). A mount
/// that only has the device's name is not listed either: any user can give that to a file system without a disk (tmpfs).
std::vector<std::string> claimants_of(std::string_view device, const std::string& sysfs = "/sys",
                                      const std::string& proc = "/proc");

/// The loop devices whose file is the node of `device`. They have a claim only if the node was opened with O_EXCL when they
/// were set up.
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
/// The other processes that have one of the devices open, found by the device number, under whichever node; only processes
/// whose descriptors this user may see. One entry for each process.
std::vector<DeviceOpener> openers_of(const std::vector<DeviceNode>& devices, const std::string& proc = "/proc",
                                     const std::string& dev = "/dev");

/// Claims a disk for this process alone, as a mount does, until the descriptor is closed. EBUSY: it is claimed already, perhaps
/// by a user that no other call here finds (ZFS, a file system of a mount namespace without processes). ENOENT, EACCES: its
/// node cannot be opened.
Result<UniqueFd> claim_disk(std::string_view disk, const std::string& dev = "/dev");

}  // namespace outboard
