#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/options.hpp>
#include <outboard/pci/function.hpp>

namespace outboard::pci {

/// A type of PCI function, other than a virtio device, that is created from options (`serve edu --dma-mask ...`,
/// `local:edu,dma-mask=...`). The counterpart of virtio::DeviceType: the registration.hpp of a device folder declares one of
/// the two, named `registration`; the table of them is generated from outboard_add_device(). Constant data: no static
/// initialisers.
struct FunctionType {
  /// A function, and what its server needs to run it.
  struct Made {
    std::unique_ptr<Function> function;
    std::string description{};  ///< its storage or the like, for messages; may be empty
    /// Reads again what may have changed outside of the function (the size of an image, for example), and notifies the driver;
    /// empty if nothing can change. Called on the function's loop, while the function exists.
    std::move_only_function<Status()> reload{};
  };

  std::string_view name;  ///< "edu"
  std::string_view summary;  ///< one line for help
  std::span<const OptionHelp> options;  ///< the options of make(), for help and for refusing others

  /// Makes a function that lives on `loop`, which outlives it. EINVAL: an unknown option.
  Result<Made> (*make)(OptionSet& set, Loop& loop, const Log& log);
};

}  // namespace outboard::pci
