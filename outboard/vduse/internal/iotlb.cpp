#include <outboard/vduse/internal/iotlb.hpp>

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <outboard/base/internal/joined_completion.hpp>
#include <outboard/base/internal/process_memory.hpp>

namespace outboard::vduse {

namespace {

using memory::Access;
using memory::Iova;
using memory::IovaRange;
using memory::Mapping;

std::optional<Access> access_of(std::uint8_t perm) {
  switch (perm) {
    case spec::perm::read:
      return Access::read;
    case spec::perm::write:
      return Access::write;
    case spec::perm::read | spec::perm::write:
      return Access::read_write;
    default:
      return std::nullopt;
  }
}

/// The first 2^64 - 1 addresses of a region: all of them have no size that fits.
IovaRange range_of(const Node::Region& region) {
  const std::uint64_t before_last = region.last - region.start;
  return {Iova{region.start}, before_last == UINT64_MAX ? before_last : before_last + 1};
}

/// The kernel's own memory (bounce pages, coherent rings), which has no size: a program's memory file has one.
bool is_domain(const UniqueFd& fd) {
  std::array<char, 64> name{};
  const ssize_t length = ::readlink(fmt::format("/proc/self/fd/{}", fd.get()).c_str(), name.data(), name.size());
  return length > 0 && std::string_view(name.data(), static_cast<std::size_t>(length)).starts_with("anon_inode:");
}

}  // namespace

Iotlb::Iotlb(Loop& control, Options options) : options_(std::move(options)), map_(control) {
  map_.set_resolver([this](IovaRange wanted, Access /*access*/) { return resolve(wanted); });
}

// Learning: on whatever thread has found a hole.

std::optional<Mapping> Iotlb::resolve(IovaRange wanted) {
  const std::lock_guard lock(mutex_);
  if (node_ == nullptr) return std::nullopt;
  auto found = look_up(*node_, raw(wanted.start));
  if (!found) {
    complain(found.error());
    return std::nullopt;
  }
  last_complaint_ = 0;
  return std::move(*found);
}

Result<std::optional<Mapping>> Iotlb::look_up(Node& node, std::uint64_t address) {
  OUTBOARD_TRY(auto region, node.find_region(address_space(), address, address));
  if (!region) return std::nullopt;
  const auto access = access_of(region->perm);
  if (!access || region->start > address || region->last < address)
    return Error(EPROTO, fmt::format("the kernel's answer about address {:#x} makes no sense", address));
  const IovaRange range = range_of(*region);
  struct stat info{};
  if (::fstat(region->fd.get(), &info) < 0) return Error::from_errno("examining memory of the driver's");

  Mapping mapping{.range = range, .access = *access, .memory = nullptr, .offset = 0, .port = nullptr};
  mapping.memory = bounce_memory(node, *region);
  if (mapping.memory) {
    // Ours.
  } else if (is_domain(region->fd)) {
    OUTBOARD_TRY(mapping.memory, memory::HostMemory::map_driver_file(region->fd, region->offset, range.size, *access));
  } else {
    // A VMM maps its memory at any byte; pages are mapped whole, and the surplus in front is never given out.
    mapping.offset = region->offset % page_size();
    if (range.size > UINT64_MAX - mapping.offset) return Error(EINVAL, "a region of the driver's memory is too large");
    OUTBOARD_TRY(mapping.memory, memory::HostMemory::map_file(region->fd, region->offset - mapping.offset,
                                                              range.size + mapping.offset, *access));
  }
  origins_[region->start] = {region->offset, region->perm, info.st_dev, info.st_ino};
  return mapping;
}

/// Before anything in the bounce buffer is touched for the first time after a reset: the kernel copies what its drivers
/// have put there already. Null: the kernel's own pages it is.
std::shared_ptr<memory::HostMemory> Iotlb::bounce_memory(Node& node, const Node::Region& region) {
  if (!options_.own_bounce || bounce_refused_) return nullptr;
  const auto info = node.region_info(address_space(), region.start, region.start);
  if (!info || !*info || ((*info)->capability & spec::capability::umem) == 0) return nullptr;
  const std::uint64_t size = range_of(region).size;
  auto memory = bounce_ && bounce_->size() == size ? bounce_ : nullptr;
  if (!memory) {
    auto made = memory::HostMemory::anonymous(size);
    if (!made) return nullptr;
    memory = std::move(*made);
    ::madvise(memory->data(), size, MADV_HUGEPAGE);
  }
  const MutableBytes bytes(memory->data(), size);
  const Status registered = node.register_memory(address_space(), region.start, bytes);
  // A registration outlives a reset of the device.
  if (registered || (registered.error().code() == EEXIST && memory == bounce_)) return bounce_ = memory;
  bounce_refused_ = true;
  options_.log.warning("the kernel keeps its own bounce buffer: {}", registered.error().message());
  return nullptr;
}

void Iotlb::complain(const Error& error) {
  if (std::exchange(last_complaint_, error.code()) == error.code()) return;
  options_.log.error("memory of the driver's: {}", error.message());
}

// Forgetting: control loop.

bool Iotlb::unchanged(Node& node, const Mapping& mapping) {
  const std::uint64_t start = raw(mapping.range.start);
  const auto region = node.find_region(address_space(), start, start);
  if (!region || !*region || (*region)->start != start || range_of(**region) != mapping.range) return false;
  struct stat info{};
  if (::fstat((*region)->fd.get(), &info) < 0) return false;
  const Origin now{(*region)->offset, (*region)->perm, info.st_dev, info.st_ino};
  const std::lock_guard lock(mutex_);
  const auto known = origins_.find(start);
  return known != origins_.end() && known->second == now;
}

void Iotlb::refresh(memory::AddressMap::Completion done) {
  Node* const node = node_;
  if (node == nullptr) return done({});
  // Who has asked before the table changed has put what it learnt into the map by now.
  map_.settle_resolver();
  std::vector<IovaRange> gone;
  map_.current()->for_each([&](const Mapping& mapping) {
    if (!unchanged(*node, mapping)) gone.push_back(mapping.range);
  });
  const auto all = JoinedCompletion::of(gone.size() + 1, std::move(done));
  for (const IovaRange& range : gone) {
    {
      const std::lock_guard lock(mutex_);
      origins_.erase(raw(range.start));
    }
    map_.unmap(range, [all](const Status&) { all->part_done(); });
  }
  all->part_done();
}

void Iotlb::clear(memory::AddressMap::Completion done) {
  {
    const std::lock_guard lock(mutex_);
    origins_.clear();
  }
  map_.clear(std::move(done));
}

void Iotlb::set_address_space(std::uint32_t asid, memory::AddressMap::Completion done) {
  if (asid_.exchange(asid, std::memory_order_relaxed) == asid) return done({});
  clear(std::move(done));
}

}  // namespace outboard::vduse
