#pragma once

#include <memory>
#include <span>
#include <string_view>

#include <outboard/base/log.hpp>
#include <outboard/base/options.hpp>
#include <outboard/pci/handle.hpp>

namespace outboard::targets {

/// The options behind the address of a `vfio:` target.
std::span<const OptionHelp> vfio_options();

/// Opens a function of this machine: `text` is what follows `vfio:`, an address and options ("0000:00:04.0,interface=group").
/// EINVAL: not an address, or an unknown option. Other errors: those of vfio::Handle::open().
Result<std::unique_ptr<pci::Handle>> open_vfio(std::string_view text, const Log& log);

}  // namespace outboard::targets
