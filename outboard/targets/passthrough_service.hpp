#pragma once

#include <memory>
#include <span>
#include <string_view>

#include <outboard/base/options.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/targets/service.hpp>

namespace outboard::targets {

/// The words of serve_passthrough(): whether the client is trusted, what happens at an unplug, how it is run.
std::span<const OptionHelp> passthrough_words();

/// Serves a function that `handle` drives, at `listener` (`vfio-user:PATH`) or on ServeOptions::socket, as pci::Passthrough.
/// Its run() fails with ENODEV when the function has gone. EINVAL: not a listener, or a word that is not known; ENOTSUP: a
/// listener that takes no PCI function; EPERM: no IOMMU stands in front of the function. Else what the handle or the socket says.
Result<std::unique_ptr<Service>> serve_passthrough(std::unique_ptr<pci::Handle> handle, OptionSet words,
                                                   std::string_view listener, ServeOptions options);

}  // namespace outboard::targets
