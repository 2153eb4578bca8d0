#include <outboard/testing/fake_iommu.hpp>

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace outboard::testing {
namespace {

constexpr int max_pumps = 100'000;

/// Whether the file holds at `offset` what the memory holds, in its first bytes: enough to tell a wrong offset.
bool is_behind(const UniqueFd& fd, std::uint64_t offset, MutableBytes memory) {
  const std::size_t size = std::min<std::size_t>(memory.size(), 4096);
  void* mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return false;
  const bool same = std::memcmp(mapped, memory.data(), size) == 0;
  ::munmap(mapped, size);
  return same;
}

}  // namespace

Status FakeIommu::check(memory::IovaRange range, MutableBytes memory, const UniqueFd* fd, std::uint64_t offset) const {
  const std::uint64_t page = limits_.page_size;
  if (!range.well_formed() || range.size != memory.size()) return Error(EINVAL, "bad range");
  if (raw(range.start) % page != 0 || range.size % page != 0 || offset % page != 0 ||
      reinterpret_cast<std::uintptr_t>(memory.data()) % page != 0) {
    return Error(EINVAL, "not whole pages");
  }
  const bool valid = std::ranges::any_of(limits_.valid, [&](const auto& area) { return area.contains(range); });
  if (!valid) return Error(EINVAL, "the device cannot be given these addresses");
  if (mapped_.size() >= limits_.max_mappings) return Error(ENOSPC, "too many mappings");
  if (files_required_ && fd == nullptr) return Error(ENOTSUP, "memory without a file cannot be shared");
  if (files_required_ && !is_behind(*fd, offset, memory)) return Error(EINVAL, "the file is not behind the memory");
  return {};
}

Status FakeIommu::map(memory::IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* fd,
                      std::uint64_t offset) {
  if (const int code = std::exchange(map_error_, 0); code != 0) return Error(code, "as the test asked");
  OUTBOARD_CHECK(check(range, memory, fd, offset));
  OUTBOARD_CHECK(map_.map({.range = range, .access = access, .memory = memory::HostMemory::borrowed(memory)}));
  mapped_.emplace(range.start, range.size);
  ++maps_;
  return {};
}

Status FakeIommu::unmap(memory::IovaRange range) {
  if (unmap_error_ != 0) return Error(unmap_error_, "as the test asked");
  const auto found = mapped_.find(range.start);
  if (found == mapped_.end() || found->second != range.size) return Error(ENOENT, "not mapped in this way");
  auto answer = std::make_shared<std::optional<Status>>();
  map_.unmap(range, [answer](Status status) { *answer = std::move(status); });
  for (int pumps = 0; !*answer && pump_ && pumps < max_pumps; ++pumps) pump_();
  mapped_.erase(found);
  ++unmaps_;
  if (!*answer) return Error(ETIMEDOUT, "a user of the memory does not let go of it");
  return **answer;
}

}  // namespace outboard::testing
