#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/options.hpp>
#include <outboard/base/result.hpp>
#include <outboard/targets/device_table.hpp>
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
  /// Serves until stop(), then finishes what is in flight. `ready` is called once, when clients, or a driver, can use the
  /// device; its error ends the service.
  virtual Status run(std::function<Status()> ready) = 0;
  Status run() {
    return run([] { return Status(); });
  }
  /// Ends run(). Any thread, and from a signal handler.
  virtual void stop() = 0;
};

struct ServeOptions {
  Log log{};
  /// A socket that listens already (socket activation); then there is no listener. Owned from here on.
  UniqueFd socket{};
  /// On vfio-user: see vfio_user::Server::Options::unplug_wait.
  Duration unplug_wait{0};
};

/// The schemes of listeners, for help.
std::span<const OptionHelp> listener_schemes();
/// The words that only `vduse:NAME` takes, beside those of transport_words().
std::span<const OptionHelp> vduse_words();

/// Makes a device from `words` (as plan_function) and serves it at `listener`: `vfio-user:PATH` or `vduse:NAME`; or, where
/// `listener` is empty, as vfio-user on ServeOptions::socket. EINVAL: not a listener. Else what the device or the transport says.
Result<std::unique_ptr<Service>> serve(const virtio::DeviceType& type, OptionSet words, std::string_view listener,
                                       ServeOptions options);
/// The same for what the table of devices has. ENOTSUP: on `vduse:NAME`, and no virtio device.
Result<std::unique_ptr<Service>> serve(const DeviceEntry& entry, OptionSet words, std::string_view listener,
                                       ServeOptions options);

}  // namespace outboard::targets
