#include <outboard/targets/passthrough_service.hpp>

#include <array>

#include <fmt/format.h>

#include <outboard/pci/passthrough.hpp>
#include <outboard/targets/target.hpp>
#include <outboard/vfio/handle.hpp>
#include <outboard/vfio_user/server.hpp>

namespace outboard::targets {

namespace {

constexpr std::array<OptionHelp, 3> words_of_passthrough{{
    {"trust-client", "", "give the client the device's own file: it maps BARs, and can do all that this process can"},
    {"unplug-deadline", "SECONDS", "how long a client may keep a device that is to be unplugged (0 to 9, default 5)"},
    {"spin", "USEC", "look for work for so long before sleeping (microseconds)"},
}};

// VFIO asks for a device again after 10 seconds, and its handle does not wait any longer then.
constexpr std::uint64_t default_deadline_s = 5, longest_deadline_s = 9;
constexpr std::uint64_t max_spin_us = 1'000'000;

/// How the function tells that it has gone. Shared with it.
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

struct Words {
  pci::Passthrough::Options passthrough;
  Duration spin{0};
};

Result<Words> take(OptionSet& words) {
  Words taken;
  OUTBOARD_TRY(taken.passthrough.trust_client, words.flag("trust-client", false));
  OUTBOARD_TRY(const auto deadline, words.number("unplug-deadline", default_deadline_s, 0, longest_deadline_s));
  taken.passthrough.unplug_deadline = std::chrono::seconds(deadline);
  OUTBOARD_TRY(const auto microseconds, words.number("spin", 0, 0, max_spin_us));
  taken.spin = std::chrono::microseconds(microseconds);
  return taken;
}

/// Whoever has the function can have it reach all of the host's memory where no IOMMU stands in front of it.
Status behind_an_iommu(const pci::Handle& handle) {
  const auto* const kernels = dynamic_cast<const vfio::Handle*>(&handle);
  if (kernels == nullptr || kernels->door() != vfio::Door::no_iommu) return {};
  return Error(EPERM, "the device is not behind an IOMMU: its client could access all memory of this machine")
      .on(handle.name())
      .cure("turn the IOMMU on (VT-d or AMD-Vi in the firmware, intel_iommu=on) and leave door=no-iommu away");
}

}  // namespace

std::span<const OptionHelp> passthrough_words() { return words_of_passthrough; }

Result<std::unique_ptr<Service>> serve_passthrough(std::unique_ptr<pci::Handle> handle, OptionSet words,
                                                   std::string_view listener, ServeOptions options) {
  std::string path;
  if (!options.socket) {
    OUTBOARD_TRY(const auto address, parse_address(listener, "listener", listener_schemes()));
    if (address.scheme != "vfio-user") {
      return Error(ENOTSUP, "a PCI function cannot be served there")
          .on(std::string(listener))
          .cure("vfio-user:PATH takes every function");
    }
    path = address.rest;
  }
  OUTBOARD_CHECK(behind_an_iommu(*handle));
  OUTBOARD_TRY(Words taken, take(words));
  OUTBOARD_CHECK(words.finish(words_of_passthrough));
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
  server_options.unplug_wait = options.unplug_wait;
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
