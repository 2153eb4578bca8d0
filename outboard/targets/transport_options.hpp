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

/// The options that every virtio device has beside its own: how it is presented on PCI and how it runs. On the command line
/// of `serve` and in `local:`.
std::span<const OptionHelp> transport_options();
/// The same for a function that is not a virtio device.
std::span<const OptionHelp> function_options();

struct TransportOptions {
  virtio_pci::Function::Options function;
  Duration spin{0};  ///< how long the device's loop polls for work before it sleeps
};

/// Takes the transport's options out of `set`; the device's options remain. EINVAL, ERANGE: the error names the option.
Result<TransportOptions> take_transport_options(OptionSet& set);

/// Takes the option `spin`. ERANGE, EINVAL: the error names it.
Result<Duration> take_spin(OptionSet& set);

/// Takes the options that hold for every transport (ring features, polling). `set` keeps the others.
Status take_core_options(OptionSet& set, virtio::DeviceCore::Options& core, Duration& spin);

/// Whether an option of transport_options() is about PCI, and therefore not for VDUSE.
bool is_pci_option(std::string_view name);

/// A function of a device type that is made later, on the loop that it will live on.
struct FunctionPlan {
  pci::FunctionFactory factory;
  Duration spin{0};
  /// virtio::Device::description(), once the function has been made; written by the thread that makes it.
  std::shared_ptr<const std::string> description;
  /// virtio::Device::reload(). Call it on the function's loop, between the function's making and its end.
  std::function<Status()> reload;
};

/// Plans a function from the options as typed. Unknown options and the transport's are checked here, the values of the
/// device's options when it is made. EINVAL, ERANGE: the error names the option.
Result<FunctionPlan> plan_function(const virtio::DeviceType& type, OptionSet set);
Result<FunctionPlan> plan_function(const pci::FunctionType& type, OptionSet set);
Result<FunctionPlan> plan_function(const DeviceEntry& entry, OptionSet set);

}  // namespace outboard::targets
