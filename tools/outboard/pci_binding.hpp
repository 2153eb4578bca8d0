#pragma once

#include <functional>
#include <string>
#include <vector>

#include <outboard/vfio/binding.hpp>

namespace outboard::command {

/// What was asked of `pci bind` or `pci unbind`.
struct BindArguments {
  std::vector<std::string> addresses;
  std::string driver;
  std::string state = vfio::Binding::Options{}.state;
  bool yes = false, modprobe = false, no_iommu = false;
};

/// What would be done, as a person would type it, and the command that does it: `verb` with all that was asked for.
std::string announcement(const std::vector<std::string>& lines, const std::string& verb,
                         const BindArguments& arguments);

/// Gives the functions back, and says each when it is done: an error in a later one does not hide it.
Status give_back(const vfio::Binding& binding, const std::vector<pci::Address>& addresses,
                 const std::function<Status(const std::string&)>& say);

}  // namespace outboard::command
