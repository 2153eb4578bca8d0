#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include <outboard/memory/address_map.hpp>
#include <outboard/memory/dma_space.hpp>

namespace outboard::testing {

/// A DmaMapper that maps a driver's memory in the address map of a device in this process. It refuses what a real one refuses:
/// a range that is not whole pages (EINVAL), lies outside the valid ranges (EINVAL), overlaps (EEXIST) or is too much (ENOSPC);
/// and to unmap a range that was not mapped exactly so (ENOENT). On the thread of the map's control loop.
class FakeIommu final : public memory::DmaMapper {
 public:
  static memory::DmaSpace::Limits default_limits() {
    // As on x86: nothing where interrupt messages go.
    return {.page_size = 4096,
            .max_mappings = 65535,
            .valid = {{memory::Iova{0}, 0xfee00000}, {memory::Iova{0xfef00000}, (UINT64_C(1) << 48) - 0xfef00000}}};
  }

  explicit FakeIommu(memory::AddressMap& map, memory::DmaSpace::Limits limits = default_limits())
      : map_(map), limits_(std::move(limits)) {}

  Status map(memory::IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* fd,
             std::uint64_t offset) override;
  /// Waits for the map's users by calling the pump, if there is one. ETIMEDOUT: they do not release the range.
  Status unmap(memory::IovaRange range) override;
  memory::DmaSpace::Limits limits() const override { return limits_; }

  /// Sets a function that runs the users' loops while an unmap waits for them: `[&] { loop.run_once(); }`.
  void set_pump(std::function<void()> pump) { pump_ = std::move(pump); }
  /// Like a mapper on the other end of a socket: memory without a descriptor is refused (ENOTSUP), as is a descriptor
  /// that is not behind the memory (EINVAL).
  void require_files() { files_required_ = true; }

  /// Makes the next map, or every later unmap, fail with this errno value; 0: not any more.
  void fail_next_map(int code) { map_error_ = code; }
  void fail_unmaps(int code) { unmap_error_ = code; }

  std::size_t mapping_count() const { return mapped_.size(); }
  /// The number of successful calls.
  std::size_t maps() const { return maps_; }
  std::size_t unmaps() const { return unmaps_; }

 private:
  Status check(memory::IovaRange range, MutableBytes memory, const UniqueFd* fd, std::uint64_t offset) const;

  memory::AddressMap& map_;
  memory::DmaSpace::Limits limits_;
  std::function<void()> pump_;
  bool files_required_ = false;
  int map_error_ = 0;
  int unmap_error_ = 0;
  std::map<memory::Iova, std::uint64_t> mapped_;
  std::size_t maps_ = 0;
  std::size_t unmaps_ = 0;
};

}  // namespace outboard::testing
