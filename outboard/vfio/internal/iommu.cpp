#include <outboard/vfio/internal/iommu.hpp>

#include <algorithm>
#include <bit>

#include <outboard/vfio/internal/info.hpp>

namespace outboard::vfio {
namespace {

namespace abi = vfio_abi;

std::uint64_t host_address(void* host) { return reinterpret_cast<std::uintptr_t>(host); }

/// Sorted and apart, without those that are none. Neighbours stay neighbours.
std::vector<memory::IovaRange> tidy(const std::vector<abi::IovaBounds>& bounds) {
  std::vector<memory::IovaRange> ranges;
  for (const abi::IovaBounds& each : bounds) {
    if (each.end < each.start) continue;
    // All 2^64 addresses are one more than a size can say; the last page is no loss.
    const std::uint64_t size = each.end - each.start;
    ranges.push_back({memory::Iova{each.start}, size == UINT64_MAX ? size - 4095 : size + 1});
  }
  std::ranges::sort(ranges, {}, &memory::IovaRange::start);
  for (std::size_t i = 1; i < ranges.size();) {
    if (ranges[i].overlaps(ranges[i - 1])) {
      ranges.erase(ranges.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  return ranges;
}

std::uint64_t smallest_page(std::uint64_t sizes) { return sizes == 0 ? 4096 : UINT64_C(1) << std::countr_zero(sizes); }

std::vector<abi::IovaBounds> bounds_of(Bytes bytes) {
  std::vector<abi::IovaBounds> bounds;
  if (bytes.size() < sizeof(abi::IovaRangeCapability)) return bounds;
  const std::uint64_t count = front<abi::IovaRangeCapability>(bytes).nr_iovas;
  Bytes rest = bytes.subspan(sizeof(abi::IovaRangeCapability));
  for (std::uint64_t i = 0; i < count && rest.size() >= sizeof(abi::IovaBounds); ++i) {
    bounds.push_back(front<abi::IovaBounds>(rest));
    rest = rest.subspan(sizeof(abi::IovaBounds));
  }
  return bounds;
}

class Container final : public Iommu {
 public:
  Container(Kernel& kernel, ContainerFd container, GroupFd group)
      : kernel_(kernel), container_(std::move(container)), group_(std::move(group)) {}

  Result<Facts> facts() override {
    OUTBOARD_TRY(const auto bytes, ask_with_room(kernel_, container_, abi::ContainerRequest::iommu_get_info,
                                                 abi::Type1Info{}, "asking about the IOMMU (VFIO_IOMMU_GET_INFO)"));
    const auto info = front<abi::Type1Info>(bytes);
    Facts facts;
    if ((info.flags & abi::type1_flag::pgsizes) != 0) facts.page_size = smallest_page(info.iova_pgsizes);
    std::vector<abi::IovaBounds> bounds;
    if ((info.flags & abi::type1_flag::caps) != 0) {
      OUTBOARD_CHECK(walk_chain(bytes, info.cap_offset, sizeof info, [&](const ChainEntry& entry) {
        if (entry.id == abi::type1_capability::iova_range) bounds = bounds_of(entry.bytes);
        if (entry.id == abi::type1_capability::dma_avail && entry.bytes.size() >= 12) {
          facts.max_mappings = front<abi::DmaAvailCapability>(entry.bytes).avail;
        }
      }));
    }
    // A kernel before 5.4 does not tell: what every IOMMU of x86 can do, without the window of interrupt messages.
    if (bounds.empty()) bounds = {{0, 0xfedfffff}, {0xfef00000, 0x7fffffffff}};
    facts.ranges = tidy(bounds);
    return facts;
  }

  int map(memory::IovaRange range, void* host, memory::Access access) override {
    abi::Type1DmaMap call{.argsz = sizeof(abi::Type1DmaMap),
                          .flags = (allows(access, memory::Access::read) ? abi::dma_map_flag::read : 0) |
                                   (allows(access, memory::Access::write) ? abi::dma_map_flag::write : 0),
                          .vaddr = host_address(host),
                          .iova = raw(range.start),
                          .size = range.size};
    return kernel_.call(container_, abi::ContainerRequest::iommu_map_dma, &call);
  }

  int unmap(memory::IovaRange range, std::uint64_t& unmapped) override {
    abi::Type1DmaUnmap call{
        .argsz = sizeof(abi::Type1DmaUnmap), .flags = 0, .iova = raw(range.start), .size = range.size};
    const int done = kernel_.call(container_, abi::ContainerRequest::iommu_unmap_dma, &call);
    unmapped = done < 0 ? 0 : call.size;
    return done;
  }

 private:
  Kernel& kernel_;
  ContainerFd container_;
  GroupFd group_;
};

class Iommufd final : public Iommu {
 public:
  Iommufd(Kernel& kernel, IommuFd iommufd, std::uint32_t ioas)
      : kernel_(kernel), iommufd_(std::move(iommufd)), ioas_(ioas) {}
  ~Iommufd() override {
    // Closing does it too; EBUSY while a device is attached.
    abi::IommuDestroy call{.size = sizeof(abi::IommuDestroy), .id = ioas_};
    kernel_.call(iommufd_, abi::IommuRequest::destroy, &call);
  }

  Result<Facts> facts() override {
    std::vector<abi::IovaBounds> bounds(16);
    for (int attempt = 0; attempt < 4; ++attempt) {
      abi::IoasIovaRanges call{.size = sizeof(abi::IoasIovaRanges),
                               .ioas_id = ioas_,
                               .num_iovas = static_cast<std::uint32_t>(bounds.size()),
                               .reserved = 0,
                               .allowed_iovas = reinterpret_cast<std::uintptr_t>(bounds.data()),
                               .out_iova_alignment = 0};
      const int done = kernel_.call(iommufd_, abi::IommuRequest::ioas_iova_ranges, &call);
      if (done < 0 && done != -EMSGSIZE) {
        return Error(-done, "asking for the ranges of I/O addresses (IOMMU_IOAS_IOVA_RANGES): " + Error(-done).what());
      }
      if (call.num_iovas > 65536) return Error(EPROTO, "the kernel has a senseless number of ranges of I/O addresses");
      const bool all = call.num_iovas <= bounds.size();
      bounds.resize(call.num_iovas);
      if (done < 0 || !all) continue;
      return Facts{.ranges = tidy(bounds), .page_size = std::max<std::uint64_t>(call.out_iova_alignment, 1)};
    }
    return Error(EPROTO, "the kernel has ever more ranges of I/O addresses");
  }

  int map(memory::IovaRange range, void* host, memory::Access access) override {
    abi::IoasMap call{.size = sizeof(abi::IoasMap),
                      .flags = abi::ioas_map_flag::fixed_iova |
                               (allows(access, memory::Access::read) ? abi::ioas_map_flag::readable : 0) |
                               (allows(access, memory::Access::write) ? abi::ioas_map_flag::writeable : 0),
                      .ioas_id = ioas_,
                      .reserved = 0,
                      .user_va = host_address(host),
                      .length = range.size,
                      .iova = raw(range.start)};
    return kernel_.call(iommufd_, abi::IommuRequest::ioas_map, &call);
  }

  int unmap(memory::IovaRange range, std::uint64_t& unmapped) override {
    abi::IoasUnmap call{
        .size = sizeof(abi::IoasUnmap), .ioas_id = ioas_, .iova = raw(range.start), .length = range.size};
    const int done = kernel_.call(iommufd_, abi::IommuRequest::ioas_unmap, &call);
    unmapped = done < 0 ? 0 : call.length;
    return done;
  }

 private:
  Kernel& kernel_;
  IommuFd iommufd_;
  std::uint32_t ioas_;
};

class NoIommu final : public Iommu {
 public:
  NoIommu(ContainerFd container, GroupFd group) : container_(std::move(container)), group_(std::move(group)) {}
  Result<Facts> facts() override {
    // So that who asks for memory is told why there is none, and not that there are no addresses.
    return Facts{.ranges = {{memory::Iova{0}, UINT64_C(1) << 39}}};
  }
  int map(memory::IovaRange, void*, memory::Access) override { return -ENOTSUP; }
  int unmap(memory::IovaRange, std::uint64_t&) override { return -ENOENT; }

 private:
  ContainerFd container_;
  GroupFd group_;
};

}  // namespace

std::unique_ptr<Iommu> container_iommu(Kernel& kernel, ContainerFd container, GroupFd group) {
  return std::make_unique<Container>(kernel, std::move(container), std::move(group));
}

std::unique_ptr<Iommu> iommufd_iommu(Kernel& kernel, IommuFd iommufd, std::uint32_t ioas) {
  return std::make_unique<Iommufd>(kernel, std::move(iommufd), ioas);
}

std::unique_ptr<Iommu> no_iommu(ContainerFd container, GroupFd group) {
  return std::make_unique<NoIommu>(std::move(container), std::move(group));
}

}  // namespace outboard::vfio
