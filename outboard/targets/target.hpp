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

/// What the handle is for. A server that serves a function on has a client of its own, which does not wait for ever: a function
/// on a vfio-user socket that leaves a command unanswered for three seconds is given up, and counts as gone.
enum class Purpose : std::uint8_t { drive, forward };

struct OpenOptions {
  Log log{};
  /// For how long to go on trying while nobody listens yet. Other failures are final at once.
  Duration wait{0};
  /// Waits between two attempts; false: give up (ECANCELED). By default the thread sleeps.
  std::function<bool(Duration)> pause{};
  Purpose purpose = Purpose::drive;
};

/// Opens what a person has named as a target:
///
///   vfio-user:PATH               the function that a server exports on this socket
///   vfio:ADDRESS[,WORD=VALUE,...]  a PCI function of this machine that is bound to vfio-pci (vfio_words())
///   local:DEVICE,WORD=VALUE,...  a device made in this process, on a thread of its own; the words are those of
///                                `outboard serve DEVICE`, a comma in a value is doubled
///
/// EINVAL: not a target; the error names the word that is wrong and lists what is known. Else what the back end says.
Result<std::unique_ptr<pci::Handle>> open(std::string_view target, const OpenOptions& options = {});

/// A target or a listener, taken apart at its first colon.
struct Address {
  std::string_view scheme;
  std::string_view rest;
};
/// EINVAL: no colon, a scheme that is not one of `schemes`, or nothing behind it. `kind`: "target" or "listener".
Result<Address> parse_address(std::string_view text, std::string_view kind, std::span<const OptionHelp> schemes);

/// The schemes of targets, for help: name, what follows, what it is.
std::span<const OptionHelp> target_schemes();

/// The device and the words of a local target: what follows `local:`.
struct LocalTarget {
  std::string_view device;
  OptionSet words;
};
Result<LocalTarget> parse_local(std::string_view text);

/// Calls `attempt` until it succeeds, fails for good, or `wait` is over. For good means anything but ENOENT and
/// ECONNREFUSED: there is no socket yet, or nobody listens on it. The time between attempts grows from 5 to 250 ms.
Status retry_while_starting(Duration wait, const std::function<bool(Duration)>& pause,
                            const std::function<Status()>& attempt);

}  // namespace outboard::targets
