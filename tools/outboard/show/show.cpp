#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/pci/registers.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tools/outboard/config_image.hpp>
#include <tools/outboard/json.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/pci_names.hpp>
#include <tools/outboard/target_arguments.hpp>
#include <tools/outboard/text.hpp>
#include <tools/outboard/verbs.hpp>
#include <tools/outboard/virtio_names.hpp>

/// `show`: shows a function.
namespace outboard::command {

namespace {

struct ShowArguments {
  TargetArguments target;
  bool json = false;
};

struct Region {
  unsigned index;
  pci::RegionInfo info;
  pci::BaseAddress bar;
};

struct VirtioView {
  std::uint32_t device_id;
  std::uint8_t status;
  virtio::Features features;
  std::vector<std::uint16_t> queue_sizes;
  std::uint32_t config_size;
};

struct View {
  std::string name;
  ConfigImage image;
  std::vector<Region> regions;
  std::vector<std::pair<std::string, pci::InterruptInfo>> interrupts;
  std::optional<VirtioView> virtio;
};

bool is_memory(const Region& region) { return region.bar.get(pci::BaseAddress::io_space) == 0; }
bool is_wide(const Region& region) {
  return is_memory(region) && region.bar.get(pci::BaseAddress::type) == pci::BaseAddress::type_64bit;
}

Result<std::vector<Region>> regions_of(pci::Handle& handle, const ConfigImage& image) {
  std::vector<Region> regions;
  for (unsigned index = pci::region::bar0; index <= pci::region::bar5; ++index) {
    OUTBOARD_TRY(auto info, handle.region(index));
    if (info.size == 0) continue;
    regions.push_back({index, std::move(info), image.base_address(index)});
  }
  return regions;
}

/// Nothing: not a virtio function.
Result<std::optional<VirtioView>> virtio_of(pci::Handle& handle) {
  auto opened = virtio_pci::Transport::open(handle);
  if (!opened && (opened.error().code() == ENODEV || opened.error().code() == ENOTSUP)) return std::nullopt;
  if (!opened) return opened.error();
  virtio_pci::Transport& transport = **opened;
  VirtioView view{transport.device_id(), 0, {}, {}, transport.config_size()};
  OUTBOARD_TRY(view.status, transport.status());
  OUTBOARD_TRY(view.features, transport.device_features());
  OUTBOARD_TRY(const auto count, transport.queue_count());
  for (unsigned queue = 0; queue < count; ++queue) {
    OUTBOARD_TRY(view.queue_sizes.emplace_back(), transport.queue_max_size(queue));
  }
  return view;
}

Result<View> look(pci::Handle& handle) {
  View view;
  view.name = handle.name();
  OUTBOARD_TRY(view.image, ConfigImage::of(handle));
  OUTBOARD_TRY(view.regions, regions_of(handle, view.image));
  static constexpr std::array kinds{std::pair("INTx", pci::InterruptKind::intx),
                                    std::pair("MSI", pci::InterruptKind::msi),
                                    std::pair("MSI-X", pci::InterruptKind::msix)};
  for (const auto& [name, kind] : kinds) {
    OUTBOARD_TRY(const auto info, handle.interrupts(kind));
    if (info.count != 0) view.interrupts.emplace_back(name, info);
  }
  OUTBOARD_TRY(view.virtio, virtio_of(handle));
  return view;
}

std::string region_text(const Region& region) {
  std::string text = fmt::format("  BAR {}      {} of {}{}", region.index, size_text(region.info.size),
                                 is_memory(region) ? "memory" : "I/O ports", is_wide(region) ? ", 64-bit" : "");
  for (const auto& area : region.info.areas)
    text += fmt::format(", mapped at {:#x} for {}", area.offset, size_text(area.size));
  return text + "\n";
}

std::string capability_text(const View& view) {
  std::vector<std::string> texts;
  for (const auto& walk : {view.image.capabilities(), view.image.extended_capabilities()}) {
    for (const auto& found : walk.found)
      texts.push_back(
          fmt::format("{:02x} at {:02x}{}", found.id, pci::raw(found.offset), found.extended ? " (extended)" : ""));
    if (walk.broken || walk.looped) texts.emplace_back("list malformed");
  }
  return texts.empty() ? "none" : fmt::format("{}", fmt::join(texts, ", "));
}

std::string virtio_text(const VirtioView& virtio) {
  std::string text = fmt::format("  virtio     {} ({}), status: {}\n", virtio_device_name(virtio.device_id),
                                 virtio.device_id, virtio_status_text(virtio.status));
  text += fmt::format("  features   {}\n", fmt::join(virtio_feature_names(virtio.device_id, virtio.features), " "));
  text += fmt::format("  queues     {}, of at most {} entries\n", virtio.queue_sizes.size(),
                      fmt::join(virtio.queue_sizes, ", "));
  return text + fmt::format("  config     {} bytes\n", virtio.config_size);
}

std::string as_text(const View& view) {
  const ConfigImage& image = view.image;
  const PciNames names = PciNames::load();
  const auto vendor = image.at<pci::VendorId>().value(), device = image.at<pci::DeviceId>().value();
  const pci::ClassAndRevision code = image.at<pci::ClassAndRevision>();
  std::string text = fmt::format("{}: {}\n", view.name, names.device(vendor, device));
  text += fmt::format(
      "  PCI        {:04x}:{:04x} revision {:02x}, class {:06x} ({}), subsystem {:04x}:{:04x}\n", vendor, device,
      code.get(pci::ClassAndRevision::revision), code.get(pci::ClassAndRevision::class_code),
      names.device_class(static_cast<std::uint16_t>(code.get(pci::ClassAndRevision::base_class_and_subclass))),
      image.at<pci::SubsystemVendorId>().value(), image.at<pci::SubsystemId>().value());
  for (const auto& region : view.regions) text += region_text(region);
  std::string interrupts;
  for (const auto& [name, info] : view.interrupts)
    interrupts += fmt::format("{}{} {}", interrupts.empty() ? "" : ", ", info.count, name);
  text += fmt::format("  interrupts {}\n", interrupts.empty() ? "none" : interrupts);
  text += fmt::format("  capability {}\n", capability_text(view));
  return text + (view.virtio ? virtio_text(*view.virtio) : "");
}

Json regions_json(const View& view) {
  Json list = Json::array();
  for (const auto& region : view.regions) {
    Json areas = Json::array();
    for (const auto& area : region.info.areas) areas.push_back({{"offset", area.offset}, {"size", area.size}});
    list.push_back({{"bar", region.index},
                    {"size", region.info.size},
                    {"kind", is_memory(region) ? "memory" : "io"},
                    {"wide", is_wide(region)},
                    {"mapped", areas}});
  }
  return list;
}

Json capabilities_json(const View& view) {
  Json list = Json::array();
  for (const auto& walk : {view.image.capabilities(), view.image.extended_capabilities()}) {
    for (const auto& found : walk.found)
      list.push_back({{"id", found.id}, {"offset", pci::raw(found.offset)}, {"extended", found.extended}});
  }
  return list;
}

Json as_json(const View& view) {
  const ConfigImage& image = view.image;
  const pci::ClassAndRevision code = image.at<pci::ClassAndRevision>();
  Json interrupts = Json::object();
  for (const auto& [name, info] : view.interrupts) interrupts.set(name, info.count);
  Json json{{"target", view.name},
            {"pci",
             {{"vendor", image.at<pci::VendorId>().value()},
              {"device", image.at<pci::DeviceId>().value()},
              {"revision", code.get(pci::ClassAndRevision::revision)},
              {"class", code.get(pci::ClassAndRevision::class_code)},
              {"subsystem_vendor", image.at<pci::SubsystemVendorId>().value()},
              {"subsystem", image.at<pci::SubsystemId>().value()},
              {"config_size", image.size()}}},
            {"bars", regions_json(view)},
            {"interrupts", interrupts},
            {"capabilities", capabilities_json(view)}};
  if (view.virtio) {
    json.set("virtio", {{"device_id", view.virtio->device_id},
                        {"name", virtio_device_name(view.virtio->device_id)},
                        {"status", view.virtio->status},
                        {"features", virtio_feature_names(view.virtio->device_id, view.virtio->features)},
                        {"queue_sizes", view.virtio->queue_sizes},
                        {"config_size", view.virtio->config_size}});
  }
  return json;
}

Result<Exit> show(const ShowArguments& arguments, Context& context) {
  OUTBOARD_TRY(const auto handle, arguments.target.open(context));
  OUTBOARD_TRY(const auto view, look(*handle));
  OUTBOARD_CHECK(print(arguments.json ? as_json(view).text() : as_text(view)));
  return Exit::done;
}

}  // namespace

void add_show(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<ShowArguments>();
  const Verb verb =
      add_verb(parent, plan, "show", "show a function: identity, BARs, capabilities, virtio features, queues",
               "outboard show vfio-user:/run/blk.sock --json",
               [arguments](Context& context) { return arguments->target.name_in(show(*arguments, context)); });
  arguments->target.add_to(verb);
  verb.add_flag("--json", arguments->json, "as JSON");
}

}  // namespace outboard::command
