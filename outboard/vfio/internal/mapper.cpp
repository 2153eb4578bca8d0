#include <outboard/vfio/internal/mapper.hpp>

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

namespace outboard::vfio {
namespace {

using memory::Iova;
using memory::IovaRange;

std::string text(IovaRange range) { return fmt::format("[{:#x}, {:#x}]", raw(range.start), raw(range.last())); }

std::string text(const std::vector<IovaRange>& ranges) {
  std::string all;
  for (const IovaRange& range : ranges) all += (all.empty() ? "" : " ") + text(range);
  return all;
}

/// Without the first page, and each range in whole pages.
std::vector<IovaRange> usable(const std::vector<IovaRange>& ranges, std::uint64_t page) {
  std::vector<IovaRange> result;
  for (const IovaRange& range : ranges) {
    const std::uint64_t first = std::max(raw(range.start), page);
    const auto start = checked_add(first, page - 1);
    if (!start || raw(range.last()) < (*start & ~(page - 1))) continue;
    const std::uint64_t begin = *start & ~(page - 1);
    const std::uint64_t size =
        (raw(range.last()) - begin) / page * page + ((raw(range.last()) + 1) % page == 0 ? page : 0);
    if (size != 0) result.push_back({Iova{begin}, size});
  }
  return result;
}

}  // namespace

Mapper::Mapper(Kernel& kernel, std::unique_ptr<Iommu> iommu, std::string name, Log log,
               std::move_only_function<void()> in_doubt)
    : kernel_(kernel),
      iommu_(std::move(iommu)),
      name_(std::move(name)),
      log_(std::move(log)),
      in_doubt_(std::move(in_doubt)) {}

Status Mapper::refresh() {
  OUTBOARD_TRY(const auto facts, iommu_->facts());
  limits_.page_size = std::max<std::uint64_t>(facts.page_size, 4096);
  limits_.max_mappings = facts.max_mappings;
  limits_.valid = usable(facts.ranges, limits_.page_size);
  if (limits_.valid.empty()) return Error(EPROTO, "the IOMMU has no addresses").on(name_);
  return {};
}

std::optional<IovaRange> Mapper::in_the_way(IovaRange range) const {
  for (const auto* known : {&mapped_, &quarantine_}) {
    const auto after = known->upper_bound(range.last());
    if (after == known->begin()) continue;
    const IovaRange before{std::prev(after)->first, std::prev(after)->second};
    if (before.overlaps(range)) return before;
  }
  return std::nullopt;
}

Status Mapper::check(IovaRange range, MutableBytes memory) const {
  if (iommu_ == nullptr) return Error(ENODEV, "the function has been released").on(name_);
  const std::uint64_t page = limits_.page_size;
  const bool whole = raw(range.start) % page == 0 && range.size % page == 0 &&
                     reinterpret_cast<std::uintptr_t>(memory.data()) % page == 0;
  if (!range.well_formed() || range.size != memory.size() || !whole) {
    return Error(EINVAL, fmt::format("memory is mapped for DMA in whole pages of {} bytes", page)).on(name_);
  }
  const auto holds = [&](const IovaRange& valid) { return valid.contains(range); };
  if (std::ranges::none_of(limits_.valid, holds)) {
    return Error(EINVAL, fmt::format("the I/O addresses {} are outside those that the device can be given: {}",
                                     text(range), text(limits_.valid)))
        .on(name_);
  }
  if (const auto other = in_the_way(range)) {
    const bool held = quarantine_.contains(other->start);
    return Error(EEXIST, fmt::format("the I/O addresses {} overlap {}, {}", text(range), text(*other),
                                     held ? "which could not be unmapped" : "which are mapped"))
        .on(name_);
  }
  return {};
}

Error Mapper::refused(int code, IovaRange range, MutableBytes memory) const {
  const std::string doing = fmt::format("mapping {} bytes for DMA at {:#x}: ", range.size, raw(range.start));
  switch (code) {
    case ENOMEM: {
      const std::uint64_t limit = kernel_.lockable_memory();
      if (limit == UINT64_MAX) return Error(code, doing + "the kernel has no memory for it").on(name_);
      return Error(code, fmt::format("{}the limit of locked memory (RLIMIT_MEMLOCK) is {} bytes, {} are needed for "
                                     "this device alone",
                                     doing, limit, mapped_bytes_ + range.size))
          .on(name_)
          .cure(fmt::format("ulimit -l {} (in KiB) and what else is locked, or LimitMEMLOCK= of the service",
                            (mapped_bytes_ + range.size + 1023) / 1024));
    }
    case ENOSPC:
      return Error(code,
                   fmt::format("{}the kernel gives this process no more than {} mappings", doing, limits_.max_mappings))
          .on(name_)
          .cure("use fewer and larger buffers, or raise vfio_iommu_type1.dma_entry_limit");
    case EFAULT:
      return Error(code, fmt::format("{}the memory at {} cannot be pinned: it is not mapped, it is read-only, or it "
                                     "belongs to a file of an ordinary file system",
                                     doing, static_cast<const void*>(memory.data())))
          .on(name_)
          .cure("use anonymous memory, a memory file or huge pages");
    case EEXIST:
      return Error(code, fmt::format("{}the kernel has something mapped in {}", doing, text(range))).on(name_);
    case ENOTSUP:
      return Error(code, doing +
                             "there is no IOMMU, so a device takes physical addresses, which this library does not "
                             "hand out")
          .on(name_)
          .cure("use a machine, or a guest, with an IOMMU");
    default:
      return Error(code, doing + Error(code).what()).on(name_);
  }
}

Status Mapper::map(IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* /*fd*/,
                   std::uint64_t /*offset*/) {
  OUTBOARD_CHECK(check(range, memory));
  if (const int done = iommu_->map(range, memory.data(), access); done < 0) return refused(-done, range, memory);
  mapped_.emplace(range.start, range.size);
  mapped_bytes_ += range.size;
  return {};
}

Status Mapper::unmap(IovaRange range) {
  const auto known = [range](const Ranges& ranges) {
    const auto found = ranges.find(range.start);
    return found != ranges.end() && found->second == range.size;
  };
  const bool again = known(quarantine_);
  if (!again && !known(mapped_)) {
    return Error(ENOENT, fmt::format("{} has not been mapped in this way", text(range))).on(name_);
  }
  std::uint64_t unmapped = range.size;
  const int done = iommu_ != nullptr ? iommu_->unmap(range, unmapped) : 0;
  if (done >= 0 && unmapped == range.size) {
    mapped_.erase(range.start);
    quarantine_.erase(range.start);
    mapped_bytes_ -= range.size;
    return {};
  }
  // Whether the device can still reach it is not known: nobody else may have the addresses or the memory.
  mapped_.erase(range.start);
  quarantine_.emplace(range.start, range.size);
  log_.error("{}: {} of the {} bytes at {:#x} were unmapped: {}", name_, unmapped, range.size, raw(range.start),
             done < 0 ? Error(-done).what() : "the kernel says no more");
  if (in_doubt_) in_doubt_();
  return Error(done < 0 ? -done : EIO, fmt::format("taking DMA memory back: {} of {} bytes were unmapped at {:#x}",
                                                   unmapped, range.size, raw(range.start)))
      .on(name_);
}

void Mapper::close() {
  if (iommu_ == nullptr) return;
  // Whoever has a copy of one of the descriptors keeps the address space, and what is mapped in it.
  for (const auto* known : {&mapped_, &quarantine_}) {
    for (const auto& [start, size] : *known) {
      std::uint64_t unmapped = size;
      const int done = iommu_->unmap({start, size}, unmapped);
      if (done >= 0 && unmapped == size) continue;
      log_.error("{}: the {} bytes at {:#x} were not unmapped whole: {}", name_, size, raw(start),
                 done < 0 ? Error(-done).what() : "the kernel says no more");
    }
  }
  iommu_.reset();
}

}  // namespace outboard::vfio
