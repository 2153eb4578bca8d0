#pragma once

#include <memory>
#include <optional>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/vfio/iommu.hpp>
#include <outboard/vfio/sysfs.hpp>

namespace outboard::vfio {

/// The ways into the kernel's VFIO. The device's file is the same afterwards.
enum class Door : std::uint8_t {
  automatic,  ///< the device's node where the kernel has iommufd, else the group
  group,      ///< /dev/vfio/GROUP, with a container of type1v2
  cdev,       ///< /dev/vfio/devices/vfioN, with an iommufd
  no_iommu,   ///< /dev/vfio/noiommu-GROUP: nothing protects the machine from the device; never chosen by itself
};

struct DoorOptions {
  Door door = Door::automatic;
  std::optional<std::string> vf_token;  ///< UUID; for a virtual function whose physical one is in user space
  std::string nodes = "/dev";           ///< where the nodes are
  std::string proc = "/proc";           ///< where processes are, to tell who has a node open
};

struct OpenedDevice {
  DeviceFd device;
  std::unique_ptr<Iommu> iommu;
  Door door = Door::group;
  std::string node;  ///< that was opened: "/dev/vfio/7"
};

/// Opens a function's device. What is in the way has a text and, where there is one, a cure: the function is not bound to
/// VFIO (EBUSY, ENODEV), its IOMMU group is not viable (EPERM), a node may not be opened (EACCES) or is in use (EBUSY),
/// there is no IOMMU (ENODEV), a module is missing (ENOENT), interrupts are not remapped (EPERM), a token is needed
/// (EACCES). What was opened on the way is closed again.
Result<OpenedDevice> open_device(Kernel& kernel, const Sysfs& sysfs, const FunctionFacts& facts,
                                 const DoorOptions& options, const Log& log);

}  // namespace outboard::vfio
