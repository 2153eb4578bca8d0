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

/// A kind of PCI function, other than a virtio device, that can be made from the words a person types (`serve edu
/// --dma-mask ...`, `local:edu,dma-mask=...`). The counterpart of virtio::DeviceType: a device folder defines one of the two
/// in its registration.hpp, named `registration`; the table of them is generated from outboard_add_device(). Constant data:
/// no static initialisers.
struct FunctionType {
  /// A function, and what its server is to know of it.
  struct Made {
    std::unique_ptr<Function> function;
    std::string description{};  ///< what stands behind it, for people; may be empty
    /// Looks again at what stands behind it, and tells the driver; empty where nothing can change. On the function's loop,
    /// for as long as the function lives.
    std::move_only_function<Status()> reload{};
  };

  std::string_view name;  ///< "edu"
  std::string_view summary;  ///< one line for help
  std::span<const OptionHelp> options;  ///< the words that make() takes, for help and for refusing others

  /// Makes a function. Refuses words it does not know. `loop` is the one it lives on, and outlives it.
  Result<Made> (*make)(OptionSet& words, Loop& loop, const Log& log);
};

}  // namespace outboard::pci
