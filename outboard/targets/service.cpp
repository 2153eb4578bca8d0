#include <outboard/targets/service.hpp>

#include <algorithm>
#include <array>
#include <functional>

#include <fmt/format.h>

#include <outboard/targets/target.hpp>
#include <outboard/targets/transport_options.hpp>
#include <outboard/targets/vduse_service.hpp>
#include <outboard/vfio_user/server.hpp>

namespace outboard::targets {

namespace {

constexpr std::array<OptionHelp, 2> listeners{{
    {"vfio-user", "PATH", "a UNIX socket, for QEMU and other clients"},
    {"vduse", "NAME", "this kernel's vDPA bus: a disk becomes /dev/vdX"},
}};

class VfioUserService final : public Service {
 public:
  VfioUserService(vfio_user::Server server, std::string where, const FunctionPlan& plan)
      : server_(std::move(server)), where_(std::move(where)), description_(plan.description), reload_(plan.reload) {}

  std::string where() const override { return where_; }
  std::string description() const override { return *description_; }
  Loop& loop() override { return server_.loop(); }
  Status reload() override { return reload_(); }
  using Service::run;
  Status run(std::function<Status()> ready) override {
    OUTBOARD_CHECK(ready());
    if (server_.run() != 0) return Error(EIO, "the server could not run").on(where_).cure("-v shows why");
    return {};
  }
  void stop() override { server_.stop(); }

 private:
  vfio_user::Server server_;
  std::string where_;
  std::shared_ptr<const std::string> description_;
  std::function<Status()> reload_;
};

Result<std::unique_ptr<Service>> serve_on_vfio_user(FunctionPlan plan, const std::string& path, ServeOptions options) {
  vfio_user::Server::Options server_options;
  server_options.log = options.log;
  server_options.unplug_timeout = options.unplug_timeout;
  if (!options.allowed.users.empty() || !options.allowed.groups.empty()) server_options.socket_mode = 0666;
  server_options.allowed = options.allowed;
  server_options.spin = plan.spin;
  options.log.debug("vfio-user: spin {} us, unplug wait {} s",
                    std::chrono::duration_cast<std::chrono::microseconds>(plan.spin).count(),
                    std::chrono::duration<double>(options.unplug_timeout).count());
  std::string where =
      path.empty() ? fmt::format("vfio-user on file descriptor {}", options.socket.get()) : "vfio-user:" + path;
  OUTBOARD_TRY(auto server, path.empty()
                                ? vfio_user::Server::adopt(std::move(options.socket), std::move(plan.factory),
                                                           std::move(server_options))
                                : vfio_user::Server::listen(path, std::move(plan.factory), std::move(server_options)));
  return std::make_unique<VfioUserService>(std::move(server), std::move(where), plan);
}

/// What follows the scheme; the scheme is vfio-user where there is a socket already.
Result<Address> listener_of(std::string_view listener, const ServeOptions& options) {
  if (options.socket) return Address{"vfio-user", {}};
  return parse_address(listener, "listener", listeners);
}

bool has_option(std::span<const OptionHelp> known, std::string_view name) {
  return std::ranges::find(known, name, &OptionHelp::name) != known.end();
}

/// An option of the other listener is known, and refused with that reason.
Status check_options_of_listener(const virtio::DeviceType& type, const OptionSet& set, const Address& address) {
  const bool on_vduse = address.scheme == "vduse";
  for (const auto& option : on_vduse ? transport_options() : vduse_options()) {
    const bool elsewhere = on_vduse ? is_pci_option(option.name) : true;
    if (!elsewhere || !set.has(option.name) || has_option(type.options, option.name)) continue;
    const std::string listener =
        address.rest.empty() ? "a vfio-user socket" : fmt::format("{}:{}", address.scheme, address.rest);
    return Error(EINVAL, fmt::format("this option is for {}, and the listener is {}",
                                     on_vduse ? "vfio-user:PATH" : "vduse:NAME", listener))
        .on(set.typed(option.name))
        .cure(fmt::format("leave it out, or use --listen {}", on_vduse ? "vfio-user:PATH" : "vduse:NAME"));
  }
  return {};
}

}  // namespace

std::span<const OptionHelp> listener_schemes() { return listeners; }

Result<std::unique_ptr<Service>> serve(const virtio::DeviceType& type, OptionSet set, std::string_view listener,
                                       ServeOptions options) {
  OUTBOARD_TRY(const auto address, listener_of(listener, options));
  OUTBOARD_CHECK(check_options_of_listener(type, set, address));
  if (address.scheme == "vduse") return serve_on_vduse(type, std::move(set), std::string(address.rest), options.log);
  OUTBOARD_TRY(auto plan, plan_function(type, std::move(set)));
  return serve_on_vfio_user(std::move(plan), std::string(address.rest), std::move(options));
}

Result<std::unique_ptr<Service>> serve(const DeviceEntry& entry, OptionSet set, std::string_view listener,
                                       ServeOptions options) {
  if (entry.type != nullptr) return serve(*entry.type, std::move(set), listener, std::move(options));
  OUTBOARD_TRY(const auto address, listener_of(listener, options));
  if (address.scheme == "vduse")
    return Error(ENOTSUP,
                 fmt::format("{} is not a virtio device, and the vDPA bus takes virtio devices only", entry.name))
        .on(std::string(listener))
        .cure("serve it on vfio-user:PATH");
  OUTBOARD_TRY(auto plan, plan_function(*entry.function, std::move(set)));
  return serve_on_vfio_user(std::move(plan), std::string(address.rest), std::move(options));
}

}  // namespace outboard::targets
