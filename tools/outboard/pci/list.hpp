#pragma once

#include <optional>
#include <string>
#include <vector>

#include <outboard/base/internal/file_holder.hpp>
#include <outboard/vfio/binding.hpp>
#include <tools/outboard/pci_names.hpp>

namespace outboard::command {

/// A function of this machine, and whether a driver in user space can use it.
struct PciFunction {
  vfio::FunctionFacts facts;
  std::vector<vfio::Obstacle> obstacles;
  std::string node;                       ///< "/dev/vfio/4"; empty unless a driver of VFIO is bound
  bool may_open = false;                  ///< this user may open the node
  std::optional<Holder> holder;           ///< the process that has the node open, if this user may see it
  std::optional<std::string> old_driver;  ///< the driver before `pci bind`; "": none

  bool bound() const { return facts.bound_to_vfio(); }
  bool usable() const { return bound() && obstacles.empty() && may_open; }
};

/// All of them.
Result<std::vector<PciFunction>> pci_functions(const vfio::Binding::Options& options);

/// Two lines for each: class and name; driver, IOMMU group, and whether it can be used.
std::string pci_text(const std::vector<PciFunction>& functions, const PciNames& names);
std::string pci_json(const std::vector<PciFunction>& functions, const PciNames& names);

/// "Non-Volatile memory controller: Red Hat, Inc. QEMU NVM Express Controller".
std::string pci_title(const vfio::FunctionFacts& facts, const PciNames& names);

}  // namespace outboard::command
