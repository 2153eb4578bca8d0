#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/options.hpp>
#include <outboard/base/result.hpp>
#include <outboard/pci/handle.hpp>

namespace outboard::targets {

/// The use of the handle. With `forward`, for a server whose own client waits for a limited time, a function on a vfio-user
/// socket that leaves a command unanswered for three seconds counts as gone.
enum class Purpose : std::uint8_t { drive, forward };

struct OpenOptions {
  Log log{};
  /// How long to retry while no server listens yet. Any other failure is final.
  Duration wait{0};
  /// Waits between two attempts; false: give up (ECANCELED). By default the thread sleeps until the program is to end.
  std::function<bool(Duration)> pause{};
  Purpose purpose = Purpose::drive;
};

/// Opens a target:
///
///   vfio-user:PATH                   the function that a server exports on this socket
///   vfio:ADDRESS[,OPTION=VALUE,...]  a PCI function of this machine that is bound to vfio-pci (vfio_options())
///   local:DEVICE,OPTION=VALUE,...    a device made in this process, on a thread of its own; the options are those of
///                                    `outboard serve DEVICE`; a comma in a value is doubled
///
/// EINVAL: not a target; the error names the wrong part and lists what is known. Other errors: those of the back end.
Result<std::unique_ptr<pci::Handle>> open(std::string_view target, const OpenOptions& options = {});

/// A target or a listener, divided at its first colon.
struct Address {
  std::string_view scheme;
  std::string_view rest;
};
/// EINVAL: no colon, a scheme that is not one of `schemes`, nothing behind it, a socket's path that is too long, or a name
/// that no VDUSE device can have. `kind`: "target" or "listener".
Result<Address> parse_address(std::string_view text, std::string_view kind, std::span<const OptionHelp> schemes);

/// The schemes of targets, for help: name, what follows it, a summary.
std::span<const OptionHelp> target_schemes();

/// The device and the options of a local target: what follows `local:`.
struct LocalTarget {
  std::string_view device;
  OptionSet options;
};
Result<LocalTarget> parse_local(std::string_view text);

}  // namespace outboard::targets
