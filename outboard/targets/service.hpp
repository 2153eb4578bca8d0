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
#include <outboard/vfio_user/peer.hpp>
#include <outboard/virtio/device_type.hpp>

namespace outboard::targets {

/// A device that is being served. One thread, that of run(), but for stop().
class Service {
 public:
  virtual ~Service() = default;

  /// "vfio-user:/run/blk.sock".
  virtual std::string where() const = 0;
  /// The device's storage or the like, for messages; may be empty.
  virtual std::string description() const = 0;
  /// The loop that run() runs.
  virtual Loop& loop() = 0;
  /// Reads again what may have changed behind the device, such as the size of an image, and tells the driver
  /// (virtio::Device::reload). On the loop's thread.
  virtual Status reload() = 0;
  /// Serves until stop(), then finishes the requests in flight. `ready` is called once, when a client or a driver can use the
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
  /// A listening socket (socket activation), to be used instead of a listener. The service owns it.
  UniqueFd socket{};
  /// On vfio-user: see vfio_user::Server::Options::unplug_timeout.
  Duration unplug_timeout{0};
  /// On vfio-user: see vfio_user::Server::Options::allowed. With some, everybody can open the socket.
  vfio_user::AllowedPeers allowed{};
};

/// The schemes of listeners, for help.
std::span<const OptionHelp> listener_schemes();
/// The options for `vduse:NAME` alone, beside those of transport_options().
std::span<const OptionHelp> vduse_options();

/// Makes a device from the options in `set` (see plan_function()) and serves it at `listener`: `vfio-user:PATH` or
/// `vduse:NAME`. With an empty `listener`: as vfio-user on ServeOptions::socket. EINVAL: not a listener. Other errors: those of
/// the device or the transport.
Result<std::unique_ptr<Service>> serve(const virtio::DeviceType& type, OptionSet set, std::string_view listener,
                                       ServeOptions options);
/// The same for an entry of the device table. ENOTSUP: `vduse:NAME` and not a virtio device.
Result<std::unique_ptr<Service>> serve(const DeviceEntry& entry, OptionSet set, std::string_view listener,
                                       ServeOptions options);

}  // namespace outboard::targets
