#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <outboard/vfio/internal/sysfs.hpp>

namespace outboard::vfio {

/// Something of the machine that would be lost with a function's driver.
struct Usage {
  std::string thing;  ///< "the disk nvme0n1", "the network interface eth0"
  std::string use;    ///< "mounted on /data", "up"
  std::string cure;   ///< "umount /data"
};

/// What the kernel makes of a function and somebody uses: disks that are mounted, swapped to, or held by another block
/// device (device mapper, md, a loop device), an interface that is up. Looks at everything below the function, so also at a disk behind a controller or a
/// USB adapter. Empty: nothing is in use, as far as this process may see (mounts and interfaces of other namespaces may be
/// hidden). `proc` and `dev` stand for /proc and /dev; with `dev` it is also looked who has a disk, what stands on it, or another
/// device of the function open by any node (a virtual machine, a database, a tool at an NVMe controller), and the kernel is asked whether something has claimed a disk (ZFS does, and has no other
/// name there), which keeps others out of it for that moment; empty: neither. Any thread.
std::vector<Usage> usages_of(const Sysfs& sysfs, pci::Address address, const std::filesystem::path& proc,
                             const std::filesystem::path& dev);

}  // namespace outboard::vfio
