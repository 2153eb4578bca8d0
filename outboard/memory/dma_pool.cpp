#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <map>

#include <outboard/base/internal/process_memory.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/memory/internal/buddy.hpp>
#include <outboard/memory/internal/iova_allocator.hpp>
#include <outboard/memory/internal/shared_file.hpp>

namespace outboard::memory {
namespace {

std::optional<std::uint64_t> whole_units(std::uint64_t size, std::uint64_t unit) {
  const auto sum = checked_add(size, unit - 1);
  if (!sum) return std::nullopt;
  return *sum / unit * unit;
}

/// No process can have more: keeps the arithmetic of sizes and alignments from wrapping.
constexpr std::uint64_t max_arena = UINT64_C(1) << 46;

struct Arena {
  SharedFile memory;
  IovaRange range;
  std::optional<Buddy> blocks;  ///< none: one buffer has it all
};

}  // namespace

struct DmaPool::State {
  DmaMapper& mapper;
  Limits limits;
  std::uint64_t arena_size;
  bool huge_pages;
  IovaAllocator addresses;
  std::map<Iova, Arena> arenas;
  std::map<Iova, std::uint64_t> foreign;  ///< memory of the caller's, by address: its size

  Result<SharedFile> create_file(std::uint64_t size, std::uint64_t alignment) const;
  Result<Arena*> add_arena(std::uint64_t size, std::uint64_t alignment, Iova highest, bool shared);
  Result<DmaBuffer> own_arena(DmaPool& pool, std::uint64_t size, const Options& options);
  Result<DmaBuffer> from_shared(DmaPool& pool, std::uint64_t size, const Options& options);
  std::optional<DmaBuffer> carve(DmaPool& pool, Arena& arena, std::uint64_t size, const Options& options);
  void remove_arena(std::map<Iova, Arena>::iterator arena);
  Status check_count() const;
};

Status DmaPool::State::check_count() const {
  if (arenas.size() + foreign.size() < limits.max_mappings) return {};
  return Error(ENOSPC, "the device can be given no more than " + std::to_string(limits.max_mappings) + " mappings");
}

/// In huge pages where that is wanted and possible: when none is free, mapping the file says so, not its first access.
Result<SharedFile> DmaPool::State::create_file(std::uint64_t size, std::uint64_t alignment) const {
  if (huge_pages && size % huge_page == 0) {
    if (auto huge = SharedFile::create(size, alignment, true)) return huge;
  }
  return SharedFile::create(size, alignment, false);
}

Result<Arena*> DmaPool::State::add_arena(std::uint64_t size, std::uint64_t alignment, Iova highest, bool shared) {
  OUTBOARD_CHECK(check_count());
  OUTBOARD_TRY(SharedFile memory, create_file(size, alignment));
  OUTBOARD_TRY(const IovaRange range, addresses.allocate(size, alignment, highest));
  if (auto mapped = mapper.map(range, memory.bytes(), Access::read_write, &memory.fd(), 0); !mapped) {
    addresses.release(range);
    return mapped.error();
  }
  Arena arena{std::move(memory), range, shared ? std::optional<Buddy>(size) : std::nullopt};
  return &arenas.emplace(range.start, std::move(arena)).first->second;
}

Result<DmaBuffer> DmaPool::State::own_arena(DmaPool& pool, std::uint64_t size, const Options& options) {
  const auto whole = whole_units(size, limits.page_size);
  if (!whole) return Error(ENOMEM, "the requested DMA buffer is too large");
  const std::uint64_t alignment = std::max(options.alignment, limits.page_size);
  OUTBOARD_TRY(Arena * arena, add_arena(*whole, alignment, options.highest, false));
  return DmaBuffer(pool, arena->memory.bytes().first(size), arena->range.start);
}

std::optional<DmaBuffer> DmaPool::State::carve(DmaPool& pool, Arena& arena, std::uint64_t size,
                                               const Options& options) {
  if (!arena.blocks || arena.range.last() > options.highest) return std::nullopt;
  const auto offset = arena.blocks->allocate(std::max(size, options.alignment));  // aligned to its own size
  if (!offset) return std::nullopt;
  const MutableBytes bytes = arena.memory.bytes().subspan(*offset, size);
  std::memset(bytes.data(), 0, bytes.size());
  return DmaBuffer(pool, bytes, arena.range.start + *offset);
}

Result<DmaBuffer> DmaPool::State::from_shared(DmaPool& pool, std::uint64_t size, const Options& options) {
  for (auto& [start, arena] : arenas) {
    if (auto buffer = carve(pool, arena, size, options)) return std::move(*buffer);
  }
  OUTBOARD_TRY(Arena * arena, add_arena(arena_size, arena_size, options.highest, true));
  if (auto buffer = carve(pool, *arena, size, options)) return std::move(*buffer);
  return Error(ENOMEM, "a new DMA arena is too small");
}

/// Gives an arena back. When that fails the device may still reach it: neither memory nor addresses are used again. The memory
/// stays mapped if the device reaches it by this mapping; else a driver that connects again and again would fill the process.
void DmaPool::State::remove_arena(std::map<Iova, Arena>::iterator arena) {
  if (mapper.unmap(arena->second.range)) {
    addresses.release(arena->second.range);
  } else if (!limits.device_holds_pages) {
    arena->second.memory.leak();
  }
  arenas.erase(arena);
}

DmaPool::DmaPool(DmaMapper& mapper, Config config) {
  Limits limits = mapper.limits();
  // What the device takes may be finer than what can be mapped here.
  const std::uint64_t page = outboard::page_size();
  if (limits.page_size < page || !std::has_single_bit(limits.page_size)) limits.page_size = page;
  // The page size may be what a peer says. An arena of one such page is not to be had when it is beyond all bounds.
  const std::uint64_t arena_size = std::bit_ceil(std::max(std::min(config.arena_size, max_arena), limits.page_size));
  IovaAllocator addresses(limits.valid);
  state_ = std::make_unique<State>(
      State{mapper, std::move(limits), arena_size, config.huge_pages, std::move(addresses), {}, {}});
}

DmaPool::~DmaPool() {
  while (!state_->arenas.empty()) state_->remove_arena(state_->arenas.begin());
  for (const auto& [start, size] : state_->foreign) [[maybe_unused]]
    const auto ignored = state_->mapper.unmap({start, size});
}

Result<DmaBuffer> DmaPool::allocate(std::uint64_t size, const Options& options) {
  if (size == 0) return Error(EINVAL, "a DMA buffer of 0 bytes was requested");
  if (!std::has_single_bit(options.alignment)) return Error(EINVAL, "a DMA alignment has to be a power of two");
  if (std::max({size, options.alignment, state_->limits.page_size}) > max_arena) {
    return Error(ENOMEM, "the requested DMA buffer is too large");
  }
  // Up to half an arena is carved out of a shared one; what is larger would waste the other half.
  if (std::max(size, options.alignment) <= state_->arena_size / 2) return state_->from_shared(*this, size, options);
  return state_->own_arena(*this, size, options);
}

Result<DmaBuffer> DmaPool::map(MutableBytes memory, const UniqueFd* fd, std::uint64_t offset) {
  const std::uint64_t page = state_->limits.page_size;
  if (memory.empty() || memory.size() % page != 0 || reinterpret_cast<std::uintptr_t>(memory.data()) % page != 0 ||
      offset % page != 0) {
    return Error(EINVAL, "memory can be given to a device only in whole pages of " + std::to_string(page) + " bytes");
  }
  OUTBOARD_CHECK(state_->check_count());
  OUTBOARD_TRY(const IovaRange range, state_->addresses.allocate(memory.size(), page, Iova{UINT64_MAX}));
  if (auto mapped = state_->mapper.map(range, memory, Access::read_write, fd, offset); !mapped) {
    state_->addresses.release(range);
    return mapped.error();
  }
  state_->foreign.emplace(range.start, range.size);
  return DmaBuffer(*this, memory, range.start);
}

DmaSpace::Limits DmaPool::limits() const { return state_->limits; }

void DmaPool::release(MutableBytes bytes, Iova iova) {
  if (state_->foreign.erase(iova) != 0) {
    const IovaRange range{iova, bytes.size()};
    if (state_->mapper.unmap(range)) state_->addresses.release(range);  // else the address is not given out again
    return;
  }
  auto after = state_->arenas.upper_bound(iova);
  if (after == state_->arenas.begin()) return;
  const auto arena = std::prev(after);
  if (!arena->second.range.contains({iova, 1})) return;
  if (arena->second.blocks) {
    arena->second.blocks->release(raw(iova) - raw(arena->first));
  } else {
    state_->remove_arena(arena);
  }
}

}  // namespace outboard::memory
