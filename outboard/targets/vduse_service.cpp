#include <outboard/targets/vduse_service.hpp>

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/storage/image_requests.hpp>
#include <outboard/targets/transport_words.hpp>

namespace outboard::targets {

namespace {

constexpr std::array<OptionHelp, 12> words_of_vduse{{
    {"threads", "N", "threads for the queues (0: they share one with everything else)"},
    {"no-attach", "", "leave putting it on the bus to others (vdpa dev add name NAME mgmtdev vduse)"},
    {"node-fd", "N", "the device's node, opened and handed over by somebody who may: descriptor N"},
    {"driver", "WHO", "who takes it: virtio (this kernel: /dev/vdX) or vhost (a VMM: /dev/vhost-vdpa-N) (virtio)"},
    {"journal", "FILE", "where requests in flight are noted (/run/outboard/vduse/NAME.journal)"},
    {"no-journal", "", "note nothing: a server that is killed leaves a device that nobody can take over"},
    {"replace", "", "remove what a dead server has left, instead of taking it over"},
    {"accept-other-storage", "", "take a disk over although its image is another than before (one that was moved)"},
    {"old-requests-ended", "",
     "with --accept-other-storage: the kernel has no requests on the other image, where that cannot be seen"},
    {"api", "VERSION", "VDUSE's interface: 0, or 1 with groups of queues (0)"},
    {"group-each-queue", "", "API 1: a group, which can have an address space of its own, for each queue"},
    {"own-bounce", "", "give the kernel memory for its bounce buffer (needs the right to lock that much)"},
}};

constexpr std::uint64_t most_threads = 1024;
constexpr std::uint32_t spaces_of_grouped = 8;
/// Enough for the queues of any device; the kernel has room for more groups than queues.
constexpr std::uint32_t most_grouped_queues = 64;

/// A node that was handed over is opened once, and its lock is whose it was.
Status take_node(OptionSet& words, vduse::Server::Options& options) {
  if (!words.has("node-fd")) return {};
  constexpr std::uint64_t most = 1 << 20;
  OUTBOARD_TRY(const auto number, words.number("node-fd", 0, 0, most));
  const auto node = std::make_shared<UniqueFd>(static_cast<int>(number));
  const auto api_version = options.device.api_version;
  options.take_lock = false;
  options.open_node = [node, api_version](const std::string& name) -> Result<std::unique_ptr<vduse::Node>> {
    if (!*node) return Error(EBADF, "the node that was handed over has been used").on("vduse:" + name);
    return vduse::adopt_node(std::move(*node), api_version);
  };
  return {};
}

Status take_api(OptionSet& words, vduse::Export::Options& device) {
  OUTBOARD_TRY(device.api_version, words.number("api", 0, 0, 1));
  OUTBOARD_TRY(const bool grouped, words.flag("group-each-queue", false));
  if (!grouped) return {};
  if (device.api_version == 0)
    return Error(EINVAL, "groups of queues need API version 1")
        .on(words.typed("group-each-queue"))
        .cure("add " + words.typed("api", "1"));
  for (std::uint32_t queue = 0; queue < most_grouped_queues; ++queue) device.groups.push_back(queue);
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

std::span<const OptionHelp> vduse_words() { return words_of_vduse; }

std::vector<OptionHelp> words_beside_device_on_vduse() {
  std::vector<OptionHelp> known;
  std::ranges::copy_if(transport_words(), std::back_inserter(known),
                       [](const OptionHelp& word) { return !is_pci_word(word.name); });
  known.insert(known.end(), words_of_vduse.begin(), words_of_vduse.end());
  return known;
}

Result<vduse::Server::Options> take_vduse_words(OptionSet& words, const std::string& name, const Log& log) {
  static constexpr std::array<std::string_view, 2> drivers{"virtio", "vhost"};
  vduse::Server::Options options;
  options.name = name;
  options.log = log;
  const bool names_platform = words.has("iommu-platform");
  OUTBOARD_CHECK(take_core_words(words, options.device.core, options.spin));
  if (names_platform && options.device.core.access_platform != virtio::AccessPlatform::require)
    return Error(EINVAL, "the kernel takes no VDUSE device without ACCESS_PLATFORM")
        .on(words.typed("iommu-platform"))
        .cure("leave it out, or say " + words.typed("iommu-platform", "require"));
  OUTBOARD_CHECK(take_api(words, options.device));
  OUTBOARD_CHECK(take_node(words, options));
  OUTBOARD_TRY(options.device.own_bounce, words.flag("own-bounce", false));
  OUTBOARD_TRY(const auto threads, words.number("threads", 0, 0, most_threads));
  options.threads = static_cast<unsigned>(threads);
  OUTBOARD_TRY(const bool no_attach, words.flag("no-attach", false));
  options.attach = !no_attach;
  OUTBOARD_TRY(const auto driver, words.choice("driver", drivers, drivers[0]));
  options.driver = driver == "vhost" ? vduse::BusDriver::vhost : vduse::BusDriver::virtio;
  OUTBOARD_TRY(options.journal, words.text("journal", ""));
  OUTBOARD_TRY(options.no_journal, words.flag("no-journal", false));
  OUTBOARD_TRY(options.replace, words.flag("replace", false));
  OUTBOARD_TRY(options.accept_other_storage, words.flag("accept-other-storage", false));
  OUTBOARD_TRY(options.old_requests_have_ended, words.flag("old-requests-ended", false));
  if (options.old_requests_have_ended && !options.accept_other_storage)
    return Error(EINVAL, "is about the storage before this one")
        .on(words.typed("old-requests-ended"))
        .cure(fmt::format("give {} too, or leave it out", words.typed("accept-other-storage")));
  options.wait_for_requests_on = [log](const StorageIdentity& before) {
    return storage::wait_for_requests_on(before, {}, log);
  };
  if (options.no_journal && !options.journal.empty())
    return Error(EINVAL, "they are mutually exclusive")
        .on(fmt::format("{}, {}", words.typed("journal"), words.typed("no-journal")))
        .cure("leave one of them out");
  for (const auto& word : words_of_vduse) words.take(word.name);
  return options;
}

std::string differing_options(const virtio::DeviceType& type, const virtio::JournalFile::Shape& before,
                              const virtio::JournalFile::Shape& now) {
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

Result<std::unique_ptr<Service>> serve_on_vduse(const virtio::DeviceType& type, OptionSet words,
                                                const std::string& name, const Log& log) {
  OUTBOARD_TRY(auto options, take_vduse_words(words, name, log));
  options.differing_options = [&type](const auto& before, const auto& now) {
    return differing_options(type, before, now);
  };
  auto make = [&type, words = std::move(words)](Loop& loop, const Log& its) -> Result<std::unique_ptr<virtio::Device>> {
    OptionSet own = words;
    auto device = type.make(own, loop, its);
    if (!device) return with_known_words(device.error(), words_beside_device_on_vduse());
    return device;
  };
  OUTBOARD_TRY(auto server, vduse::Server::create(std::move(make), std::move(options)));
  return std::make_unique<VduseService>(std::move(server), name);
}

}  // namespace outboard::targets
