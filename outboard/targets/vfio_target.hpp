#pragma once

#include <memory>
#include <span>
#include <string_view>

#include <outboard/base/log.hpp>
#include <outboard/base/options.hpp>
#include <outboard/pci/handle.hpp>

namespace outboard::targets {

/// The words behind the address of a `vfio:` target.
std::span<const OptionHelp> vfio_words();

/// Opens a function of this machine: `text` is what follows `vfio:`, an address and words ("0000:00:04.0,door=group").
/// EINVAL: no address, or an unknown word. Else as vfio::Handle::open.
Result<std::unique_ptr<pci::Handle>> open_vfio(std::string_view text, const Log& log);

}  // namespace outboard::targets
