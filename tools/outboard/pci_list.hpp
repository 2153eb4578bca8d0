#pragma once

#include <optional>
#include <string>
#include <vector>

#include <outboard/base/file_holder.hpp>
#include <outboard/vfio/binding.hpp>
#include <tools/outboard/pci_names.hpp>

namespace outboard::command {

/// A function of this machine, and whether a driver in user space can have it.
struct PciFunction {
  vfio::FunctionFacts facts;
  std::vector<vfio::Obstacle> obstacles;
  std::string node;                       ///< "/dev/vfio/4", where a driver of VFIO is bound
  bool may_open = false;                  ///< this user may open the node
  std::optional<Holder> holder;           ///< who has the node open, as far as this user may see it
  std::optional<std::string> old_driver;  ///< the one that `pci bind` has taken it from; "": it had none

  bool bound() const { return facts.bound_to_vfio(); }
  bool usable() const { return bound() && obstacles.empty() && may_open; }
};

/// All of them.
Result<std::vector<PciFunction>> pci_functions(const vfio::Binding::Options& options);

/// Two lines for each: what it is; its driver, its group, and whether it can be had.
std::string pci_text(const std::vector<PciFunction>& functions, const PciNames& names);
std::string pci_json(const std::vector<PciFunction>& functions, const PciNames& names);

/// "Non-Volatile memory controller: Red Hat, Inc. QEMU NVM Express Controller".
std::string pci_title(const vfio::FunctionFacts& facts, const PciNames& names);

}  // namespace outboard::command
