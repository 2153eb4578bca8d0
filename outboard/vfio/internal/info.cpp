#include <outboard/vfio/internal/info.hpp>

#include <algorithm>

#include <outboard/base/internal/process_memory.hpp>

namespace outboard::vfio {
namespace {

namespace abi = vfio_abi;

std::vector<pci::MmapArea> sparse_areas(Bytes bytes) {
  std::vector<pci::MmapArea> areas;
  if (bytes.size() < sizeof(abi::SparseMmapCapability)) return areas;
  const std::uint64_t count = front<abi::SparseMmapCapability>(bytes).nr_areas;
  Bytes rest = bytes.subspan(sizeof(abi::SparseMmapCapability));
  for (std::uint64_t i = 0; i < count && rest.size() >= sizeof(abi::SparseMmapArea); ++i) {
    const auto area = front<abi::SparseMmapArea>(rest);
    areas.push_back({.offset = area.offset, .size = area.size});
    rest = rest.subspan(sizeof(abi::SparseMmapArea));
  }
  return areas;
}

/// What of the areas can be mapped, in order and apart. A BAR below the size of a page has its page to itself where the
/// kernel offers to map it.
std::vector<pci::MmapArea> mappable(std::vector<pci::MmapArea> areas, std::uint64_t region_size,
                                    std::uint64_t region_offset) {
  const std::uint64_t page = page_size();
  std::erase_if(areas, [&](const pci::MmapArea& area) {
    const bool whole = area.offset == 0 && area.size == region_size;
    return area.size == 0 || region_offset % page != 0 || area.offset % page != 0 ||
           (area.size % page != 0 && !whole) || !range_within(area.offset, area.size, region_size);
  });
  std::ranges::sort(areas, {}, &pci::MmapArea::offset);
  std::uint64_t end = 0;
  std::erase_if(areas, [&end](const pci::MmapArea& area) {
    if (area.offset < end) return true;
    end = area.offset + area.size;
    return false;
  });
  return areas;
}

}  // namespace

Status walk_chain(Bytes info, std::uint32_t first, std::size_t fixed_size,
                  const std::function<void(const ChainEntry&)>& visit) {
  std::size_t last = 0;
  for (std::size_t at = first; at != 0;) {
    // The kernel appends: what goes back, or is not aligned, is no chain. So it ends. Before 6.6 it appended without
    // padding, and some capabilities are not a multiple of 8 bytes.
    if (at < fixed_size || at % 4 != 0 || at <= last || !range_within(at, sizeof(abi::CapabilityHeader), info.size())) {
      return Error(EPROTO, "a chain of capabilities leads nowhere, to " + std::to_string(at));
    }
    const auto header = front<abi::CapabilityHeader>(info.subspan(at));
    visit({.id = header.id, .bytes = info.subspan(at)});
    last = at;
    at = header.next;
  }
  return {};
}

Result<DeviceFacts> device_facts(Kernel& kernel, const DeviceFd& device) {
  OUTBOARD_TRY(const auto bytes, ask_with_room(kernel, device, abi::DeviceRequest::get_info, abi::DeviceInfo{},
                                               "asking about the device (VFIO_DEVICE_GET_INFO)"));
  const auto info = front<abi::DeviceInfo>(bytes);
  if ((info.flags & abi::device_flag::pci) == 0) return Error(EPROTO, "the device is not a PCI device");
  if (info.num_regions <= pci::region::config) return Error(EPROTO, "the device has no configuration space");
  return DeviceFacts{
      .resettable = (info.flags & abi::device_flag::reset) != 0, .regions = info.num_regions, .irqs = info.num_irqs};
}

Result<RegionFacts> region_facts(Kernel& kernel, const DeviceFd& device, unsigned index, const Log& log) {
  abi::RegionInfo question{};
  question.index = index;
  const auto bytes = ask_with_room(kernel, device, abi::DeviceRequest::get_region_info, question,
                                   "asking about a region (VFIO_DEVICE_GET_REGION_INFO)");
  if (!bytes && bytes.error().code() == EINVAL) return RegionFacts{};  // VGA, where there is none
  if (!bytes) return bytes.error();
  const auto info = front<abi::RegionInfo>(*bytes);
  RegionFacts facts{.size = info.size,
                    .offset = info.offset,
                    .readable = (info.flags & abi::region_flag::read) != 0,
                    .writable = (info.flags & abi::region_flag::write) != 0,
                    .areas = {}};
  std::vector<pci::MmapArea> areas{{.offset = 0, .size = info.size}};
  if ((info.flags & abi::region_flag::caps) != 0) {
    const auto walked = walk_chain(*bytes, info.cap_offset, sizeof info, [&](const ChainEntry& entry) {
      if (entry.id == abi::region_capability::sparse_mmap) areas = sparse_areas(entry.bytes);
      if (entry.id == abi::region_capability::msix_mappable) facts.msix_mappable = true;
    });
    if (!walked) log.warning("region {}: {}", index, walked.error().message());
  }
  if ((info.flags & abi::region_flag::mmap) != 0 && info.size != 0) {
    facts.areas = mappable(std::move(areas), info.size, info.offset);
  }
  return facts;
}

Result<pci::InterruptInfo> irq_facts(Kernel& kernel, const DeviceFd& device, unsigned index) {
  abi::IrqInfo info{};
  info.argsz = sizeof info;
  info.index = index;
  const int done = kernel.call(device, abi::DeviceRequest::get_irq_info, &info);
  if (done == -EINVAL) return pci::InterruptInfo{};  // the error index, on a conventional function
  if (done < 0) return Error(-done, "asking about interrupts (VFIO_DEVICE_GET_IRQ_INFO): " + Error(-done).what());
  // The flag for eventfds is set with a count of 0 too: only both together mean interrupts.
  const bool usable = (info.flags & abi::irq_flag::eventfd) != 0;
  return pci::InterruptInfo{.count = usable ? info.count : 0,
                            .maskable = (info.flags & abi::irq_flag::maskable) != 0,
                            .automasked = (info.flags & abi::irq_flag::automasked) != 0,
                            .resizable = (info.flags & abi::irq_flag::noresize) == 0};
}

}  // namespace outboard::vfio
