#include <outboard/targets/vduse_service.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/storage/internal/image_requests.hpp>
#include <outboard/targets/transport_options.hpp>

namespace outboard::targets {

namespace {

constexpr std::array<OptionHelp, 12> vduse_table{{
    {"threads", "N", "threads for the queues (default 0: the main thread serves all of them)"},
    {"no-attach", "",
     "do not put the device on the bus (the administrator does: vdpa dev add name NAME mgmtdev vduse)"},
    {"node-fd", "N", "use file descriptor N, which is the open node of the device"},
    {"driver", "NAME",
     "driver on the bus: virtio (default; this kernel, /dev/vdX) or vhost (a VMM, /dev/vhost-vdpa-N)"},
    {"journal", "FILE", "journal of the requests in flight (default /run/outboard/vduse/NAME.journal)"},
    {"no-journal", "", "keep no journal: if the server is killed, no other server can take the device over"},
    {"replace", "", "remove the device of a dead server instead of taking it over"},
    {"accept-other-storage", "", "take a disk over although its image is not the same file as before (it was moved)"},
    {"old-requests-ended", "",
     "with --accept-other-storage: assert that no request is in flight on the old image, if the server cannot see it"},
    {"api", "VERSION", "version of the VDUSE interface: 0 (default), or 1 for groups of queues"},
    {"group-each-queue", "",
     "with API 1: put each queue into a group of its own, which can have its own address space"},
    {"own-bounce", "", "give the kernel this process's memory for its bounce buffer (needs the right to lock it)"},
}};

constexpr std::uint64_t max_threads = 1024;
constexpr std::uint32_t spaces_of_grouped = 8;
/// Enough for the queues of any device; the kernel has room for more groups than queues.
constexpr std::uint32_t max_grouped_queues = 64;

/// A node that was handed over is used once. Whoever handed it over holds the lock of the name.
Status take_node(OptionSet& set, vduse::Server::Options& options) {
  if (!set.has("node-fd")) return {};
  constexpr std::uint64_t max_fd = 1 << 20;
  OUTBOARD_TRY(const auto number, set.number("node-fd", 0, 0, max_fd));
  const auto node = std::make_shared<UniqueFd>(static_cast<int>(number));
  const auto api_version = options.device.api_version;
  options.take_lock = false;
  options.open_node = [node, api_version](const std::string& name) -> Result<std::unique_ptr<vduse::Node>> {
    if (!*node) return Error(EBADF, "the node that was handed over has been used already").on("vduse:" + name);
    return vduse::adopt_node(std::move(*node), api_version);
  };
  return {};
}

Status take_api(OptionSet& set, vduse::Export::Options& device) {
  OUTBOARD_TRY(device.api_version, set.number("api", 0, 0, 1));
  OUTBOARD_TRY(const bool grouped, set.flag("group-each-queue", false));
  if (!grouped) return {};
  if (device.api_version == 0)
    return Error(EINVAL, "needs version 1 of the VDUSE interface")
        .on(set.typed("group-each-queue"))
        .cure("add " + set.typed("api", "1"));
  for (std::uint32_t queue = 0; queue < max_grouped_queues; ++queue) device.groups.push_back(queue);
  device.address_spaces = spaces_of_grouped;
  return {};
}

class VduseService final : public Service {
 public:
  VduseService(vduse::Server server, std::string name) : server_(std::move(server)), name_(std::move(name)) {}

  std::string where() const override {
    const std::string made = server_.made();
    return fmt::format("vduse:{}{}{}", name_, made.empty() ? "" : ", as ", made);
  }
  std::string description() const override { return server_.device().description(); }
  Loop& loop() override { return server_.loop(); }
  Status reload() override { return server_.device().reload(); }
  using Service::run;
  Status run(std::function<Status()> ready) override { return server_.run(std::move(ready)); }
  void stop() override { server_.stop(); }

 private:
  mutable vduse::Server server_;
  std::string name_;
};

}  // namespace

std::span<const OptionHelp> vduse_options() { return vduse_table; }

std::vector<OptionHelp> options_beside_device_on_vduse() {
  std::vector<OptionHelp> known;
  std::ranges::copy_if(transport_options(), std::back_inserter(known),
                       [](const OptionHelp& option) { return !is_pci_option(option.name); });
  known.insert(known.end(), vduse_table.begin(), vduse_table.end());
  return known;
}

Result<vduse::Server::Options> take_vduse_options(OptionSet& set, const std::string& name, const Log& log) {
  static constexpr std::array<std::string_view, 2> drivers{"virtio", "vhost"};
  vduse::Server::Options options;
  options.name = name;
  options.log = log;
  const bool names_platform = set.has("iommu-platform");
  OUTBOARD_CHECK(take_core_options(set, options.device.core, options.spin));
  if (names_platform && options.device.core.access_platform != virtio::AccessPlatform::require)
    return Error(EINVAL, "the kernel refuses a VDUSE device without ACCESS_PLATFORM")
        .on(set.typed("iommu-platform"))
        .cure("leave it out, or use " + set.typed("iommu-platform", "require"));
  OUTBOARD_CHECK(take_api(set, options.device));
  OUTBOARD_CHECK(take_node(set, options));
  OUTBOARD_TRY(options.device.own_bounce, set.flag("own-bounce", false));
  OUTBOARD_TRY(const auto threads, set.number("threads", 0, 0, max_threads));
  options.threads = static_cast<unsigned>(threads);
  OUTBOARD_TRY(const bool no_attach, set.flag("no-attach", false));
  options.attach = !no_attach;
  OUTBOARD_TRY(const auto driver, set.choice("driver", drivers, drivers[0]));
  options.driver = driver == "vhost" ? vduse::BusDriver::vhost : vduse::BusDriver::virtio;
  OUTBOARD_TRY(options.journal, set.text("journal", ""));
  OUTBOARD_TRY(options.no_journal, set.flag("no-journal", false));
  OUTBOARD_TRY(options.replace, set.flag("replace", false));
  OUTBOARD_TRY(options.accept_other_storage, set.flag("accept-other-storage", false));
  OUTBOARD_TRY(options.old_requests_have_ended, set.flag("old-requests-ended", false));
  if (options.old_requests_have_ended && !options.accept_other_storage)
    return Error(EINVAL, "needs " + set.typed("accept-other-storage"))
        .on(set.typed("old-requests-ended"))
        .cure(fmt::format("add {}, or leave it out", set.typed("accept-other-storage")));
  options.wait_for_requests_on = [log](const StorageIdentity& before) {
    return storage::wait_for_requests_on(before, {}, log);
  };
  if (options.no_journal && !options.journal.empty())
    return Error(EINVAL, "they are mutually exclusive")
        .on(fmt::format("{}, {}", set.typed("journal"), set.typed("no-journal")))
        .cure("leave one of them out");
  for (const auto& option : vduse_table) set.take(option.name);
  return options;
}

std::string differing_options(const virtio::DeviceType& type, const journal::File::Shape& before,
                              const journal::File::Shape& now) {
  std::vector<std::string> parts;
  const auto compare_flag = [&](virtio::Feature bit, std::string_view option) {
    const bool was = before.offered.has(bit);
    if (!option.empty() && was != now.offered.has(bit))
      parts.push_back(fmt::format("{} --{}", was ? "with" : "without", option));
  };
  const auto compare_number = [&](std::string_view option, std::size_t was, std::size_t is) {
    const bool known = std::ranges::find(type.options, option, &OptionHelp::name) != type.options.end();
    if (known && was != is) parts.push_back(fmt::format("with --{} {}", option, was));
  };
  compare_flag(virtio::Feature::ring_packed, "packed");
  compare_flag(virtio::Feature::in_order, "in-order");
  for (const auto& feature : type.features) compare_flag(feature.bit, feature.option);
  compare_number("queues", before.queue_sizes.size(), now.queue_sizes.size());
  if (!before.queue_sizes.empty() && !now.queue_sizes.empty())
    compare_number("queue-size", before.queue_sizes[0], now.queue_sizes[0]);
  return fmt::format("{}", fmt::join(parts, ", "));
}

namespace {

/// Checks the type alone; the other fields of the shape are for when the device has been made.
Status check_type(const virtio::DeviceType& type) {
  const Status checked =
      vduse::check_shape({.name = "device", .device_id = type.device_id}, vduse::spec::api_version_0);
  return !checked && checked.error().code() == ENOTSUP ? checked : Status();
}

/// Called first: without the module nothing else matters, and no lock file should be left behind.
Status check_module(const std::string& name) {
  const auto exists = [](const char* path) { return ::access(path, F_OK) == 0; };
  if (exists(vduse::device_folder) || exists("/sys/class/vduse")) return {};
  return Error(ENOENT, "the kernel module vduse is not loaded")
      .on("vduse:" + name)
      .cure("modprobe -a vduse virtio_vdpa; a kernel without it needs CONFIG_VDPA_USER");
}

}  // namespace

bool vduse_takes(const virtio::DeviceType& type) { return check_type(type) ? true : false; }

Result<std::unique_ptr<Service>> serve_on_vduse(const virtio::DeviceType& type, OptionSet set, const std::string& name,
                                                const Log& log) {
  if (const Status taken = check_type(type); !taken) return Error(taken.error()).on("vduse:" + name);
  OUTBOARD_TRY(auto options, take_vduse_options(set, name, log));
  const auto beside_device = options_beside_device_on_vduse();
  OUTBOARD_CHECK(set.check_known({type.options, beside_device}));
  if (!options.open_node) OUTBOARD_CHECK(check_module(name));
  options.differing_options = [&type](const auto& before, const auto& now) {
    return differing_options(type, before, now);
  };
  auto make = [&type, set = std::move(set)](Loop& loop, const Log& its) -> Result<std::unique_ptr<virtio::Device>> {
    OptionSet own = set;
    return type.make(own, loop, its);
  };
  OUTBOARD_TRY(auto server, vduse::Server::create(std::move(make), std::move(options)));
  return std::make_unique<VduseService>(std::move(server), name);
}

}  // namespace outboard::targets
