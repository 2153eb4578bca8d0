#include <outboard/vfio_user/internal/info_commands.hpp>

#include <algorithm>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;

template <typename T>
void append(std::vector<std::byte>& to, const T& value) {
  const Bytes bytes = as_bytes_of(value);
  to.insert(to.end(), bytes.begin(), bytes.end());
}

Error bad_index(const char* what, std::uint32_t index) {
  return Error(EINVAL, "there is no " + std::string(what) + " " + std::to_string(index));
}

/// The request's structure; EINVAL when it, or the reply that the client would take, is shorter than the fixed part.
template <typename T>
Result<T> fixed_part(Bytes request) {
  OUTBOARD_TRY(const T value, ByteReader(request).read<T>());
  if (value.argsz < sizeof(T)) return Error(EINVAL, "argsz is below the size of the reply");
  return value;
}

bool is_whole_region(const pci::RegionInfo& region) {
  return region.areas.size() == 1 && region.areas[0].offset == 0 && region.areas[0].size == region.size;
}

std::uint32_t access_flags(const pci::RegionInfo& region) {
  if (region.size == 0) return 0;
  return (region.readable ? abi::region_flag::read : 0) | (region.writable ? abi::region_flag::write : 0);
}

/// The capability that says which parts of a region may be mapped; it ends the chain.
void append_sparse_areas(std::vector<std::byte>& payload, const std::vector<pci::MmapArea>& areas) {
  append(payload,
         abi::SparseMmapCapability{.header = {.id = abi::region_capability::sparse_mmap, .version = 1, .next = 0},
                                   .nr_areas = static_cast<std::uint32_t>(areas.size()),
                                   .reserved = 0});
  for (const auto& area : areas) append(payload, abi::SparseMmapArea{.offset = area.offset, .size = area.size});
}

/// The doorbells that fit one message, and their descriptors without repetition.
struct Doorbells {
  std::vector<spec::IoEventFd> entries;
  std::vector<int> fds;
};

Doorbells collect_doorbells(const std::vector<pci::IoEventFd>& bells, unsigned max_fds) {
  Doorbells result;
  for (const pci::IoEventFd& bell : bells) {
    if (bell.fd == nullptr || !bell.fd->valid()) continue;
    auto at = std::ranges::find(result.fds, bell.fd->get());
    if (at == result.fds.end()) {
      if (result.fds.size() >= max_fds) continue;
      at = result.fds.insert(at, bell.fd->get());
    }
    result.entries.push_back({.offset = bell.offset,
                              .size = bell.size,
                              .fd_index = static_cast<std::uint32_t>(at - result.fds.begin()),
                              .type = spec::io_fd_type::ioeventfd,
                              .flags = bell.datamatch ? spec::ioeventfd_flag::datamatch : 0,
                              .padding = 0,
                              .datamatch = bell.datamatch.value_or(0)});
  }
  return result;
}

}  // namespace

Result<Answer> get_device_info(const pci::Function& function, Bytes request) {
  OUTBOARD_CHECK(fixed_part<abi::DeviceInfo>(request));
  Answer answer;
  append(answer.payload,
         abi::DeviceInfo{.argsz = sizeof(abi::DeviceInfo),
                         .flags = abi::device_flag::pci | (function.resettable() ? abi::device_flag::reset : 0),
                         .num_regions = pci::region::count,
                         .num_irqs = pci::interrupt_kind_count});
  return answer;
}

Result<Answer> get_region_info(const pci::Function& function, Bytes request, unsigned max_fds) {
  OUTBOARD_TRY(const auto asked, fixed_part<abi::RegionInfo>(request));
  if (asked.index >= pci::region::count) return bad_index("region", asked.index);
  const pci::RegionInfo region = function.region(asked.index);
  abi::RegionInfo info{.argsz = sizeof(abi::RegionInfo),
                       .flags = access_flags(region),
                       .index = asked.index,
                       .cap_offset = 0,
                       .size = region.size,
                       .offset = 0};
  const bool mappable = region.size != 0 && !region.areas.empty() && region.fd != nullptr && max_fds != 0;
  const bool sparse = mappable && !is_whole_region(region);
  if (mappable) {
    info.flags |= abi::region_flag::mmap | (sparse ? abi::region_flag::caps : 0);
    info.offset = region.fd_offset;
  }
  if (sparse) {
    info.argsz += static_cast<std::uint32_t>(sizeof(abi::SparseMmapCapability) +
                                             region.areas.size() * sizeof(abi::SparseMmapArea));
  }
  const bool fits = asked.argsz >= info.argsz;
  if (sparse && fits) info.cap_offset = sizeof(abi::RegionInfo);
  Answer answer;
  append(answer.payload, info);
  if (sparse && fits) append_sparse_areas(answer.payload, region.areas);
  // If it does not fit, the client asks again with a larger argsz, and the descriptor goes with that reply.
  if (mappable && fits) answer.fds.push_back(region.fd->get());
  return answer;
}

Result<Answer> get_irq_info(const pci::Function& function, Bytes request) {
  OUTBOARD_TRY(const auto asked, fixed_part<abi::IrqInfo>(request));
  if (asked.index >= pci::interrupt_kind_count) return bad_index("interrupt index", asked.index);
  const pci::InterruptInfo info = function.interrupts(static_cast<pci::InterruptKind>(asked.index));
  Answer answer;
  append(answer.payload, abi::IrqInfo{.argsz = sizeof(abi::IrqInfo),
                                      .flags = abi::irq_flag::eventfd | (info.maskable ? abi::irq_flag::maskable : 0) |
                                               (info.automasked ? abi::irq_flag::automasked : 0) |
                                               (info.resizable ? 0 : abi::irq_flag::noresize),
                                      .index = asked.index,
                                      .count = info.count});
  return answer;
}

Result<Answer> get_region_io_fds(pci::Function& function, Bytes request, unsigned max_fds) {
  OUTBOARD_TRY(const auto asked, fixed_part<spec::RegionIoFds>(request));
  if (asked.index >= pci::region::count) return bad_index("region", asked.index);
  Doorbells bells = collect_doorbells(function.io_eventfds(asked.index), max_fds);
  const std::size_t size = sizeof(spec::RegionIoFds) + bells.entries.size() * sizeof(spec::IoEventFd);
  Answer answer;
  append(answer.payload, spec::RegionIoFds{.argsz = static_cast<std::uint32_t>(size),
                                           .flags = 0,
                                           .index = asked.index,
                                           .count = static_cast<std::uint32_t>(bells.entries.size())});
  if (asked.argsz < size) return answer;
  for (const auto& entry : bells.entries) append(answer.payload, entry);
  answer.fds = std::move(bells.fds);
  return answer;
}

}  // namespace outboard::vfio_user
