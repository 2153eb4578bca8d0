#include <outboard/pci/internal/mmap_areas.hpp>

#include <algorithm>

#include <outboard/base/internal/process_memory.hpp>

namespace outboard::pci {

std::vector<MmapArea> areas_without(const std::vector<MmapArea>& areas, std::uint64_t start, std::uint64_t size) {
  const std::uint64_t page = page_size();
  const std::uint64_t from = start / page * page, to = (start + size + page - 1) / page * page;
  std::vector<MmapArea> left;
  for (const MmapArea& area : areas) {
    const std::uint64_t end = area.offset + area.size;
    if (area.offset < std::min(end, from)) left.push_back({area.offset, std::min(end, from) - area.offset});
    if (std::max(area.offset, to) < end) left.push_back({std::max(area.offset, to), end - std::max(area.offset, to)});
  }
  return left;
}

}  // namespace outboard::pci
