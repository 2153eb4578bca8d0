#include <outboard/pci/internal/client_memory.hpp>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

#include <outboard/memory/internal/memory_port.hpp>

namespace outboard::pci {

namespace {

using memory::IovaRange;

std::string text(const IovaRange& range) {
  return fmt::format("{:#x} to {:#x}", raw(range.start), range.well_formed() ? raw(range.last()) : raw(range.start));
}

std::string text(const std::vector<IovaRange>& ranges) {
  std::string list;
  for (const IovaRange& range : ranges) list += (list.empty() ? "" : ", ") + text(range);
  return list;
}

constexpr const char* shared_memory = "give the virtual machine shared memory (memory-backend-memfd,share=on)";

/// The kernel pins the pages before anything else is served: a file system that does not answer (FUSE) would hold us there.
bool is_shared_memory(const UniqueFd& file) {
  struct statfs info{};
  // A seccomp profile may forbid asking. Only these two have seals.
  if (::fstatfs(file.get(), &info) != 0) return ::fcntl(file.get(), F_GET_SEALS) >= 0;
  return info.f_type == TMPFS_MAGIC || info.f_type == HUGETLBFS_MAGIC;
}

}  // namespace

ClientMemory::~ClientMemory() { [[maybe_unused]] const Status released = unmap_all(); }

std::vector<std::shared_ptr<memory::HostMemory>> ClientMemory::give_up() {
  [[maybe_unused]] const Status released = unmap_all();
  std::vector<std::shared_ptr<memory::HostMemory>> kept;
  for (Entry& entry : std::exchange(quarantine_, {})) kept.push_back(std::move(entry.memory));
  return kept;
}

Status ClientMemory::check(const memory::Mapping& mapping, const memory::DmaSpace::Limits& limits) const {
  const IovaRange& range = mapping.range;
  if (!range.well_formed()) return Error(EINVAL, "the range is empty or goes beyond the last address");
  if (!mapping.memory) {
    return Error(EINVAL, "no memory file came with " + text(range) + ": a real device cannot do DMA by messages")
        .cure(shared_memory);
  }
  if (mapping.file && !is_shared_memory(*mapping.file))
    return Error(EINVAL, "the file that came with " + text(range) + " is not shared memory (tmpfs, hugetlbfs)")
        .cure(shared_memory);
  const std::uint64_t mask = limits.page_size - 1;
  if (((raw(range.start) | range.size | mapping.offset) & mask) != 0)
    return Error(EINVAL, fmt::format("{} is not whole pages of {} bytes", text(range), limits.page_size));
  if (!range_within(mapping.offset, range.size, mapping.memory->size()))
    return Error(EINVAL, text(range) + " is larger than the memory behind it");
  const auto after = mappings_.lower_bound(range.start);
  const bool overlaps = (after != mappings_.end() && after->second.range.overlaps(range)) ||
                        (after != mappings_.begin() && std::prev(after)->second.range.overlaps(range));
  if (overlaps) return Error(EEXIST, text(range) + " overlaps memory that is mapped already");
  if (mappings_.size() >= limits.max_mappings)
    return Error(ENOSPC, fmt::format("the device's IOMMU takes no more than {} mappings", limits.max_mappings));
  return {};
}

Status ClientMemory::map(const memory::Mapping& mapping) {
  const auto limits = mapper_.limits();
  OUTBOARD_CHECK(check(mapping, limits));
  Entry entry{.range = mapping.range, .mapped = mapping.range, .memory = mapping.memory};
  std::uint64_t offset = mapping.offset, file_offset = mapping.file_offset;
  if (raw(entry.mapped.start) < limits.page_size) {
    entry.mapped = {memory::Iova{limits.page_size}, entry.range.size - limits.page_size};
    offset += limits.page_size;
    file_offset += limits.page_size;
  }
  if (entry.mapped.size != 0) {
    const bool reached =
        std::ranges::any_of(limits.valid, [&](const IovaRange& valid) { return valid.contains(entry.mapped); });
    if (!reached) {
      return Error(EINVAL, fmt::format("{} cannot be mapped: the device's IOMMU translates {}", text(entry.mapped),
                                       text(limits.valid)));
    }
    const MutableBytes bytes(mapping.memory->data() + offset, entry.mapped.size);
    OUTBOARD_CHECK(mapper_.map(entry.mapped, bytes, mapping.access, mapping.file.get(), file_offset));
  }
  mappings_.emplace(entry.range.start, std::move(entry));
  return {};
}

bool ClientMemory::reaches_any() const {
  return std::ranges::any_of(mappings_, [](const auto& each) { return each.second.mapped.size != 0; });
}

Status ClientMemory::release(Entry entry) {
  if (entry.mapped.size == 0) return {};
  Status unmapped = mapper_.unmap(entry.mapped);
  if (!unmapped) quarantine_.push_back(std::move(entry));
  return unmapped;
}

Status ClientMemory::unmap(IovaRange range) {
  if (!range.well_formed()) return Error(EINVAL, "the range is empty or goes beyond the last address");
  auto first = mappings_.lower_bound(range.start);
  if (first != mappings_.begin() && std::prev(first)->second.range.overlaps(range))
    return Error(EINVAL, text(range) + " begins inside a mapping");
  auto last = first;
  while (last != mappings_.end() && last->first <= range.last()) {
    if (!range.contains(last->second.range)) return Error(EINVAL, text(range) + " ends inside a mapping");
    ++last;
  }
  if (first == last) return Error(ENOENT, "nothing is mapped in " + text(range));
  Status result;
  while (first != last) {
    const Status released = release(std::move(first->second));
    if (result && !released) result = released;
    first = mappings_.erase(first);
  }
  return result;
}

Status ClientMemory::unmap_all() {
  Status result;
  const auto note = [&result](const Status& released) {
    if (result && !released) result = released;
  };
  for (auto& [start, entry] : std::exchange(mappings_, {})) note(release(std::move(entry)));
  for (Entry& entry : std::exchange(quarantine_, {})) note(release(std::move(entry)));
  return result;
}

}  // namespace outboard::pci
