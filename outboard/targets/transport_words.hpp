#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include <outboard/base/loop.hpp>
#include <outboard/base/options.hpp>
#include <outboard/base/result.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/pci/function_type.hpp>
#include <outboard/targets/device_table.hpp>
#include <outboard/virtio/device_type.hpp>
#include <outboard/virtio_pci/function.hpp>

namespace outboard::targets {

/// The words that are not the device's own but say how it is put behind PCI and run; the same for every virtio device, on
/// the command line of `serve` and in `local:`.
std::span<const OptionHelp> transport_words();
/// The same for a function that is no virtio device: how it is run.
std::span<const OptionHelp> function_words();

struct TransportOptions {
  virtio_pci::Function::Options function;
  Duration spin{0};  ///< how long the device's loop looks for work before it sleeps
};

/// Takes the transport's words out of `words`; what is left is the device's. EINVAL, ERANGE: the error names the word.
Result<TransportOptions> take_transport_words(OptionSet& words);

/// Those that say how a device runs, wherever it is served: ring features, polling. `words` keeps the others.
Status take_core_words(OptionSet& words, virtio::DeviceCore::Options& core, Duration& spin);

/// Whether a word of transport_words() is about PCI, so that VDUSE has no use for it.
bool is_pci_word(std::string_view name);

/// The error of a device type that does not know a word, with `ours` among those that would have been known.
Error with_known_words(const Error& error, std::span<const OptionHelp> ours);

/// A function of a device type, still to be made: on the loop that it will live on.
struct FunctionPlan {
  pci::FunctionFactory factory;
  Duration spin{0};
  /// What stands behind the device, once the function has been made; written by the thread that makes it.
  std::shared_ptr<const std::string> description;
  /// Looks again at what stands behind the device (virtio::Device::reload), once the function has been made and for as long as
  /// it lives; on its loop.
  std::function<Status()> reload;
};

/// `words` as typed. Those of the transport are looked at here, those of the device when it is made; what neither knows
/// is refused then.
Result<FunctionPlan> plan_function(const virtio::DeviceType& type, OptionSet words);
Result<FunctionPlan> plan_function(const pci::FunctionType& type, OptionSet words);
Result<FunctionPlan> plan_function(const DeviceEntry& entry, OptionSet words);

}  // namespace outboard::targets
