#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/options.hpp>
#include <outboard/base/result.hpp>
#include <outboard/virtio/device_type.hpp>

namespace outboard::targets {

/// A device that is being served. One thread, that of run(), but for stop().
class Service {
 public:
  virtual ~Service() = default;

  /// "vfio-user:/run/blk.sock".
  virtual std::string where() const = 0;
  /// What stands behind the device, for people; may be empty.
  virtual std::string description() const = 0;
  /// The loop that run() runs.
  virtual Loop& loop() = 0;
  /// What stands behind the device may have changed: looks again and tells the driver (virtio::Device::reload). On the
  /// loop's thread.
  virtual Status reload() = 0;
  /// Serves until stop(), then finishes what is in flight.
  virtual Status run() = 0;
  /// Ends run(). Any thread, and from a signal handler.
  virtual void stop() = 0;
};

struct ServeOptions {
  Log log{};
  /// A socket that listens already (socket activation); then there is no listener. Owned from here on.
  UniqueFd socket{};
};

/// The schemes of listeners, for help.
std::span<const OptionHelp> listener_schemes();

/// Makes a device from `words` (as plan_function) and serves it at `listener`: `vfio-user:PATH`; or, where `listener` is
/// empty, as vfio-user on ServeOptions::socket. EINVAL: not a listener. Else what the device or the transport says.
Result<std::unique_ptr<Service>> serve(const virtio::DeviceType& type, OptionSet words, std::string_view listener,
                                       ServeOptions options);

}  // namespace outboard::targets
