#include <outboard/targets/passthrough_service.hpp>

#include <array>

#include <fmt/format.h>

#include <outboard/pci/passthrough.hpp>
#include <outboard/targets/target.hpp>
#include <outboard/targets/transport_options.hpp>
#include <outboard/vfio/handle.hpp>
#include <outboard/vfio_user/server.hpp>

namespace outboard::targets {

namespace {

constexpr std::array<OptionHelp, 3> passthrough_table{{
    {"trust-client", "", "hand the device's file to the client: it can map BARs and do all that this process can do"},
    {"unplug-deadline", "SECONDS", "how long the client may keep a device that is to be unplugged (0 to 9, default 5)"},
    {"spin", "USEC", "busy-poll for so many microseconds before sleeping (default 0)"},
}};

// VFIO asks for a device again after 10 seconds; by then the handle must have been given back.
constexpr std::uint64_t default_timeout_s = 5, max_timeout_s = 9;

/// Set by the function when the device has gone. Shared with it.
struct Ending {
  std::string why;
  std::function<void()> stop;
};

class PassthroughService final : public Service {
 public:
  PassthroughService(vfio_user::Server server, std::string where, std::string description,
                     std::shared_ptr<Ending> ending)
      : server_(std::move(server)),
        where_(std::move(where)),
        description_(std::move(description)),
        ending_(std::move(ending)) {
    ending_->stop = [this] { server_.stop(); };
  }

  std::string where() const override { return where_; }
  std::string description() const override { return description_; }
  Loop& loop() override { return server_.loop(); }
  Status reload() override { return {}; }
  using Service::run;
  Status run(std::function<Status()> ready) override {
    OUTBOARD_CHECK(ready());
    if (server_.run() != 0) return Error(EIO, "the server could not run").on(where_).cure("-v shows why");
    if (!ending_->why.empty()) return Error(ENODEV, ending_->why).on(description_);
    return {};
  }
  void stop() override { server_.stop(); }

 private:
  vfio_user::Server server_;
  std::string where_;
  std::string description_;
  std::shared_ptr<Ending> ending_;
};

struct Taken {
  pci::Passthrough::Options passthrough;
  Duration spin{0};
};

Result<Taken> take(OptionSet& set) {
  Taken taken;
  OUTBOARD_TRY(taken.passthrough.trust_client, set.flag("trust-client", false));
  OUTBOARD_TRY(const auto timeout, set.number("unplug-deadline", default_timeout_s, 0, max_timeout_s));
  taken.passthrough.unplug_timeout = std::chrono::seconds(timeout);
  OUTBOARD_TRY(taken.spin, take_spin(set));
  return taken;
}

/// Without an IOMMU the client could make the device access all memory of the host.
Status behind_an_iommu(const pci::Handle& handle) {
  const auto* const kernels = dynamic_cast<const vfio::Handle*>(&handle);
  if (kernels == nullptr || kernels->interface() != vfio::Interface::no_iommu) return {};
  return Error(EPERM, "the device is not behind an IOMMU: its client could access all memory of this machine")
      .on(handle.name())
      .cure("turn the IOMMU on (VT-d or AMD-Vi in the firmware, intel_iommu=on) and leave interface=no-iommu away");
}

}  // namespace

std::span<const OptionHelp> passthrough_options() { return passthrough_table; }

Result<std::unique_ptr<Service>> serve_passthrough(std::unique_ptr<pci::Handle> handle, OptionSet set,
                                                   std::string_view listener, ServeOptions options) {
  std::string path;
  if (!options.socket) {
    OUTBOARD_TRY(const auto address, parse_address(listener, "listener", listener_schemes()));
    if (address.scheme != "vfio-user") {
      return Error(ENOTSUP, "a PCI function cannot be served on this listener")
          .on(std::string(listener))
          .cure("serve it on vfio-user:PATH");
    }
    path = address.rest;
  }
  OUTBOARD_CHECK(behind_an_iommu(*handle));
  OUTBOARD_TRY(Taken taken, take(set));
  OUTBOARD_CHECK(set.finish(passthrough_table));
  const auto ending = std::make_shared<Ending>();
  taken.passthrough.ended = [ending](const std::string& why) {
    ending->why = why;
    if (ending->stop) ending->stop();
  };
  OUTBOARD_TRY(const auto identity, handle->identity());
  const std::string description = fmt::format("{} ({:04x}:{:04x})", handle->name(), identity.vendor, identity.device);
  auto factory = pci::Passthrough::factory(std::move(handle), std::move(taken.passthrough));
  vfio_user::Server::Options server_options;
  server_options.log = options.log;
  server_options.unplug_timeout = options.unplug_timeout;
  if (!options.allowed.users.empty() || !options.allowed.groups.empty()) server_options.socket_mode = 0666;
  server_options.allowed = options.allowed;
  server_options.spin = taken.spin;
  const std::string where =
      path.empty() ? fmt::format("vfio-user on file descriptor {}", options.socket.get()) : std::string(listener);
  OUTBOARD_TRY(auto server,
               path.empty()
                   ? vfio_user::Server::adopt(std::move(options.socket), std::move(factory), std::move(server_options))
                   : vfio_user::Server::listen(path, std::move(factory), std::move(server_options)));
  return std::make_unique<PassthroughService>(std::move(server), where, description, ending);
}

}  // namespace outboard::targets
