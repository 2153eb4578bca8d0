#include <outboard/vfio_user/internal/region_info.hpp>

#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <optional>

#include <outboard/base/internal/process_memory.hpp>
#include <outboard/memory/internal/all_ones.hpp>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;

Error malformed(unsigned index, const char* what) {
  return Error(EPROTO, "the server's description of region " + std::to_string(index) + " " + what);
}

/// The structure at an offset of the reply that has been checked.
template <typename T>
T load_at(Bytes reply, std::size_t offset) {
  T value;
  std::memcpy(&value, reply.data() + offset, sizeof value);
  return value;
}

Result<std::vector<pci::MmapArea>> parse_areas(Bytes reply, std::size_t at, unsigned index) {
  if (!range_within(at, sizeof(abi::SparseMmapCapability), reply.size())) return malformed(index, "is cut off");
  const auto capability = load_at<abi::SparseMmapCapability>(reply, at);
  const Bytes rest = reply.subspan(at + sizeof capability);
  if (capability.nr_areas > rest.size() / sizeof(abi::SparseMmapArea)) {
    return malformed(index, "has more areas than bytes");
  }
  std::vector<pci::MmapArea> areas;
  for (std::size_t i = 0; i < capability.nr_areas; ++i) {
    const auto area = load_at<abi::SparseMmapArea>(rest, i * sizeof(abi::SparseMmapArea));
    areas.push_back({.offset = area.offset, .size = area.size});
  }
  return areas;
}

/// The areas that the capability chain names; none where it has no sparse-mmap capability. Offsets must rise, so the walk ends.
Result<std::optional<std::vector<pci::MmapArea>>> walk_capabilities(Bytes reply, std::size_t first, unsigned index) {
  std::optional<std::vector<pci::MmapArea>> areas;
  std::size_t last = 0;
  for (std::size_t at = first; at != 0;) {
    if (at < sizeof(abi::RegionInfo) || at % 8 != 0 || at <= last ||
        !range_within(at, sizeof(abi::CapabilityHeader), reply.size())) {
      return malformed(index, "has a capability chain that points outside or does not rise");
    }
    const auto header = load_at<abi::CapabilityHeader>(reply, at);
    if (header.id == abi::region_capability::sparse_mmap && !areas) {
      OUTBOARD_TRY(areas, parse_areas(reply, at, index));
    }
    last = at;
    at = header.next;
  }
  return areas;
}

std::uint64_t file_size(const UniqueFd& fd) {
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) return 0;
  return static_cast<std::uint64_t>(status.st_size);
}

/// What of the areas can be mapped, in order.
std::vector<pci::MmapArea> mappable(std::vector<pci::MmapArea> areas, const pci::RegionInfo& region,
                                    const UniqueFd& fd) {
  const std::uint64_t page = page_size();
  const std::uint64_t file = file_size(fd);
  const auto fits = [&](const pci::MmapArea& area) {
    const auto in_file = checked_add(region.fd_offset, area.offset);
    return area.size != 0 && area.offset % page == 0 && area.size % page == 0 && region.fd_offset % page == 0 &&
           range_within(area.offset, area.size, region.size) && in_file && range_within(*in_file, area.size, file);
  };
  std::erase_if(areas, [&](const pci::MmapArea& area) { return !fits(area); });
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

Result<pci::RegionInfo> parse_region_info(Bytes reply, unsigned index, const UniqueFd& fd) {
  OUTBOARD_TRY(const auto info, ByteReader(reply).read<abi::RegionInfo>());
  if (info.index != index) return malformed(index, "is for another region");
  if (info.argsz < sizeof info) return malformed(index, "is cut off");
  pci::RegionInfo region{.size = info.size,
                         .readable = (info.flags & abi::region_flag::read) != 0,
                         .writable = (info.flags & abi::region_flag::write) != 0,
                         .areas = {},
                         .fd_offset = info.offset};
  if (index <= pci::region::bar5 && info.size != 0 && !std::has_single_bit(info.size)) {
    return malformed(index, "has a size that is no power of two");
  }
  if ((info.flags & abi::region_flag::mmap) == 0 || !fd || info.size == 0) return region;
  std::vector<pci::MmapArea> areas{{.offset = 0, .size = info.size}};
  if ((info.flags & abi::region_flag::caps) != 0) {
    OUTBOARD_TRY(auto named, walk_capabilities(reply, info.cap_offset, index));
    if (named) areas = std::move(*named);
  }
  region.areas = mappable(std::move(areas), region, fd);
  return region;
}

pci::MmapArea pages_around(std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t page = page_size();
  const std::uint64_t begin = offset / page * page;
  return {.offset = begin, .size = (offset - begin + length + page - 1) / page * page};
}

Result<MappedArea> MappedArea::map(const UniqueFd& fd, std::uint64_t file_offset, const pci::MmapArea& area,
                                   memory::Access access) {
  OUTBOARD_TRY(auto memory, memory::HostMemory::map_file(fd, file_offset + area.offset, area.size, access));
  return MappedArea(area, std::move(memory));
}

bool MappedArea::contains(std::uint64_t offset, std::uint64_t length) const {
  return offset >= area_.offset && range_within(offset - area_.offset, length, area_.size);
}

pci::Window MappedArea::window(std::uint64_t offset, std::uint64_t length) const {
  return pci::Window(memory_->data() + (offset - area_.offset), length);
}

Status MappedArea::replace_file(const UniqueFd& fd, std::uint64_t file_offset, memory::Access access) const {
  return memory_->replace_file(fd, file_offset + area_.offset, access);
}

void MappedArea::revoke() const {
  // Failing leaves the old memory there, which harms nobody.
  [[maybe_unused]] const bool covered = memory::cover_with_ones({memory_->data(), area_.size});
}

}  // namespace outboard::vfio_user
