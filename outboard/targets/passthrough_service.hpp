#pragma once

#include <memory>
#include <span>
#include <string_view>

#include <outboard/base/options.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/targets/service.hpp>

namespace outboard::targets {

/// The options of serve_passthrough(): trust in the client, timeout of an unplug, polling.
std::span<const OptionHelp> passthrough_options();

/// Serves a function that `handle` drives, at `listener` (`vfio-user:PATH`) or on ServeOptions::socket, as pci::Passthrough.
/// Its run() fails with ENODEV when the function has gone. EINVAL: not a listener, or an unknown option; ENOTSUP: a listener that
/// takes no PCI function; EPERM: the function is not behind an IOMMU. Other errors: those of the handle or the socket.
Result<std::unique_ptr<Service>> serve_passthrough(std::unique_ptr<pci::Handle> handle, OptionSet set,
                                                   std::string_view listener, ServeOptions options);

}  // namespace outboard::targets
