#pragma once

#include <memory>
#include <optional>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/vfio/internal/iommu.hpp>
#include <outboard/vfio/internal/sysfs.hpp>

namespace outboard::vfio {

/// The interfaces of the kernel's VFIO for opening a device. The file of the device is the same with each.
enum class Interface : std::uint8_t {
  automatic,  ///< cdev if the kernel has iommufd, else group
  group,      ///< /dev/vfio/GROUP, with a container of type1v2
  cdev,       ///< /dev/vfio/devices/vfioN, with an iommufd
  no_iommu,   ///< /dev/vfio/noiommu-GROUP: the device can access all memory; never chosen by automatic
};

struct InterfaceOptions {
  Interface interface = Interface::automatic;
  std::optional<std::string>
      vf_token;  ///< UUID; for a virtual function whose physical function is driven in user space
  std::string nodes = "/dev";           ///< folder of the nodes
  std::string proc = "/proc";           ///< /proc, to find the process that has a node open
};

struct OpenedDevice {
  DeviceFd device;
  std::unique_ptr<Iommu> iommu;
  Interface interface = Interface::group;
  std::string node;  ///< the node that was opened: "/dev/vfio/7"
};

/// Opens a function's device. Each error has a text and, if there is one, a cure: the function is not bound to
/// VFIO (EBUSY, ENODEV), its IOMMU group is not viable (EPERM), a node may not be opened (EACCES) or is in use (EBUSY),
/// there is no IOMMU (ENODEV), a module is missing (ENOENT), interrupts are not remapped (EPERM), a token is needed
/// (EACCES). With an error nothing stays open.
Result<OpenedDevice> open_device(Kernel& kernel, const Sysfs& sysfs, const FunctionFacts& facts,
                                 const InterfaceOptions& options, const Log& log);

}  // namespace outboard::vfio
