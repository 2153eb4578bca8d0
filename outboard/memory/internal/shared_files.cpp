#include <outboard/memory/internal/shared_files.hpp>

#include <sys/stat.h>

#include <algorithm>

namespace outboard::memory {
namespace {

/// A mapping and what it was charged, which goes back when the mapping is gone.
struct Charged {
  Charged(std::shared_ptr<Budget::Share> from, std::uint64_t bytes) : share(std::move(from)), size(bytes) {}
  ~Charged() {
    memory.reset();
    share->give_mapping(size);
  }
  Charged(const Charged&) = delete;
  Charged& operator=(const Charged&) = delete;

  std::shared_ptr<Budget::Share> share;
  std::uint64_t size;
  std::shared_ptr<HostMemory> memory;
};

}  // namespace

/// A mapping that has the window; `start` is then where it begins in the file.
std::shared_ptr<HostMemory> SharedFiles::find(const Key& key, std::uint64_t offset, std::uint64_t size, Access access,
                                              std::uint64_t& start) {
  auto [at, end] = entries_.equal_range(key);
  while (at != end) {
    const Entry& entry = at->second;
    auto memory = entry.memory.lock();
    if (!memory) {
      at = entries_.erase(at);
      continue;
    }
    const bool enough = allows(entry.access, Access::write) || !allows(access, Access::write);
    // What is poisoned has been replaced by zeroes; the file may have its pages again.
    if (enough && offset >= entry.offset && range_within(offset - entry.offset, size, entry.size) &&
        !memory->poisoned(memory->data() + (offset - entry.offset), size)) {
      start = entry.offset;
      return memory;
    }
    ++at;
  }
  return nullptr;
}

Result<std::shared_ptr<HostMemory>> SharedFiles::map_new(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size,
                                                         Access access) const {
  if (!share_) return HostMemory::map_file(fd, offset, size, access);
  OUTBOARD_CHECK(share_->take_mapping(size));
  auto charged = std::make_shared<Charged>(share_, size);
  OUTBOARD_TRY(charged->memory, HostMemory::map_file(fd, offset, size, access));
  auto* const memory = charged->memory.get();
  return std::shared_ptr<HostMemory>(std::move(charged), memory);
}

Result<SharedFiles::Window> SharedFiles::map(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size,
                                             Access access) {
  OUTBOARD_CHECK(HostMemory::check_file(fd, offset, size, access));
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return Error::from_errno("examining a memory file");
  const Key key{info.st_dev, info.st_ino};
  std::uint64_t start = 0;
  if (auto known = find(key, offset, size, access, start)) return Window{std::move(known), offset - start};

  std::uint64_t whole = static_cast<std::uint64_t>(info.st_size);
  auto memory = map_new(fd, 0, whole, access);
  if (!memory) {
    start = offset;
    whole = size;
    memory = map_new(fd, offset, size, access);
    if (!memory) return std::move(memory).error();
  }
  forget_unused();
  entries_.emplace(key, Entry{start, whole, access, *memory});
  return Window{std::move(*memory), offset - start};
}

/// Each time that the number has doubled, so that a client which maps and unmaps new files for ever does not fill memory.
void SharedFiles::forget_unused() {
  constexpr std::size_t few = 64;
  if (entries_.size() < 2 * std::max(cleaned_at_, few)) return;
  std::erase_if(entries_, [](const auto& each) { return each.second.memory.expired(); });
  cleaned_at_ = entries_.size();
}

}  // namespace outboard::memory
