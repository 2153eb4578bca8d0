#pragma once

#include <functional>
#include <string>
#include <vector>

#include <outboard/vfio/binding.hpp>

namespace outboard::command {

/// The arguments of `pci bind` or `pci unbind`.
struct BindArguments {
  std::vector<std::string> addresses;
  std::string driver;
  std::string state = vfio::Binding::Options{}.state;
  bool yes = false, modprobe = false, no_iommu = false;
};

/// The shell commands that do it by hand, and the command of ours that does it: `verb` with the same arguments.
std::string announcement(const std::vector<std::string>& lines, const std::string& verb,
                         const BindArguments& arguments);

/// Returns the functions to their drivers, and calls `say` after each, so that a later error hides none.
Status give_back(const vfio::Binding& binding, const std::vector<pci::Address>& addresses,
                 const std::function<Status(const std::string&)>& say);

}  // namespace outboard::command
