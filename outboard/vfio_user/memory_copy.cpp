#include <outboard/vfio_user/memory_copy.hpp>

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include <outboard/base/internal/process_memory.hpp>

namespace outboard::vfio_user {
namespace {

Status map_over(MutableBytes place, const UniqueFd& fd, std::uint64_t offset) {
  if (system_calls().map(place.data(), place.size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd.get(),
                         static_cast<off_t>(offset)) != MAP_FAILED)
    return {};
  return Error::from_errno("mapping the copy of memory in its place");
}

}  // namespace

Result<SecondMemory::File> MemoryCopy::add(memory::IovaRange range, MutableBytes bytes, const File& file) {
  OUTBOARD_TRY(UniqueFd old, file.fd->duplicate());
  OUTBOARD_TRY(auto copy, memory::SharedFile::create(bytes.size(), page_size(), false));
  copy_bytes(bytes, copy.bytes());
  const auto part =
      parts_
          .emplace(
              range.start,
              Part{.drivers = bytes, .old_file = std::move(old), .old_offset = file.offset, .copy = std::move(copy)})
          .first;
  return File{.fd = &part->second.copy.fd(), .offset = 0};
}

void MemoryCopy::remove(memory::IovaRange range) { parts_.erase(range.start); }

void MemoryCopy::copy(memory::IovaRange pages) {
  const auto next = parts_.upper_bound(pages.start);
  if (next == parts_.begin()) return;
  Part& part = std::prev(next)->second;
  const std::uint64_t offset = raw(pages.start) - raw(std::prev(next)->first);
  if (!range_within(offset, pages.size, part.drivers.size())) return;
  copy_bytes(part.drivers.subspan(offset, pages.size), part.copy.bytes().subspan(offset, pages.size));
  copied_ += pages.size;
}

void MemoryCopy::copy_unreported(memory::Iova start, Part& part) {
  const std::uint64_t page = page_size();
  for (std::uint64_t at = 0; at < part.drivers.size(); at += page) {
    const std::uint64_t size = std::min<std::uint64_t>(page, part.drivers.size() - at);
    if (std::memcmp(part.drivers.data() + at, part.copy.bytes().data() + at, size) == 0) continue;
    std::memcpy(part.copy.bytes().data() + at, part.drivers.data() + at, size);
    unreported_size_ += size;
    if (unreported_) unreported_({start + at, size});
  }
}

Status MemoryCopy::take_over() {
  for (auto& [start, part] : parts_) {
    copy_unreported(start, part);
    if (auto mapped = map_over(part.drivers, part.copy.fd(), 0); !mapped) {
      give_back();
      return mapped;
    }
  }
  return {};
}

void MemoryCopy::give_back() {
  for (auto& [start, part] : parts_) {
    // Where even that fails the driver is left with the copy, which has the same bytes, but is not what the device reaches.
    [[maybe_unused]] const Status mapped = map_over(part.drivers, part.old_file, part.old_offset);
  }
}

}  // namespace outboard::vfio_user
