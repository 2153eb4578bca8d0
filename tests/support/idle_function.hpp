#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include <outboard/pci/function.hpp>

namespace outboard::testing {

/// A pci::Function that trusts whoever calls it and does nothing: it notes the accesses that reach it. For tests of what a function
/// that is not an EmulatedFunction is given. Everything is public.
class IdleFunction : public pci::Function {
 public:
  struct Access {
    unsigned region = 0;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    friend bool operator==(const Access&, const Access&) = default;
  };

  /// BAR 0 can only be read, BAR 1 only be written; the others are not there.
  static constexpr std::uint64_t bar_size = 16, config_size = 256;

  std::vector<Access> reads, writes;

  pci::RegionInfo region(unsigned index) const override {
    switch (index) {
      case 0:
        return {.size = bar_size, .readable = true, .areas = {}};
      case 1:
        return {.size = bar_size, .writable = true, .areas = {}};
      case pci::region::config:
        return {.size = config_size, .readable = true, .writable = true, .areas = {}};
      default:
        return {};
    }
  }
  pci::InterruptInfo interrupts(pci::InterruptKind) const override { return {}; }
  bool resettable() const override { return true; }
  Status map(memory::Mapping) override { return {}; }
  void unmap(memory::IovaRange, Completion done) override { done({}); }
  void unmap_all(Completion done) override { done({}); }
  Status bind_interrupts(pci::InterruptKind, std::uint32_t, std::vector<EventFd>) override { return {}; }
  Status bind_unmask(EventFd) override { return {}; }
  Status disable_interrupts(pci::InterruptKind) override { return {}; }
  Status trigger_interrupts(pci::InterruptKind, std::uint32_t, std::uint32_t) override { return {}; }
  Status mask_interrupts(pci::InterruptKind, std::uint32_t, std::uint32_t) override { return {}; }
  Status unmask_interrupts(pci::InterruptKind, std::uint32_t, std::uint32_t) override { return {}; }
  void reset(Completion done) override { done({}); }
  void release_client(Completion done) override { done({}); }

 protected:
  Status read_checked(unsigned region, std::uint64_t offset, MutableBytes into) override {
    reads.push_back({region, offset, into.size()});
    return {};
  }
  Status write_checked(unsigned region, std::uint64_t offset, Bytes from) override {
    writes.push_back({region, offset, from.size()});
    return {};
  }
};

/// An access that a function must not see, and what it is answered with.
struct RefusedAccess {
  IdleFunction::Access access;
  int error;
};

/// For reads; the same with the other BAR for writes.
constexpr RefusedAccess refused_reads[] = {
    {{0, IdleFunction::bar_size, 1}, EINVAL},
    {{0, IdleFunction::bar_size - 3, 4}, EINVAL},
    {{0, 0, IdleFunction::bar_size + 1}, EINVAL},
    {{0, UINT64_MAX, 4}, EINVAL},
    {{0, UINT64_MAX - 3, 4}, EINVAL},
    {{0, UINT64_MAX - 3, 8}, EINVAL},
    {{1, 0, 4}, EACCES},
    {{1, IdleFunction::bar_size, 4}, EINVAL},
    {{2, 0, 4}, EINVAL},
    {{2, 0, 0}, EINVAL},
    {{pci::region::config, IdleFunction::config_size - 1, 2}, EINVAL},
    {{pci::region::vga, 0, 1}, EINVAL},
    {{pci::region::count, 0, 1}, EINVAL},
    {{UINT32_MAX, 0, 4}, EINVAL},
};

inline std::vector<RefusedAccess> refused_writes() {
  std::vector<RefusedAccess> rows(std::begin(refused_reads), std::end(refused_reads));
  for (RefusedAccess& row : rows) {
    if (row.access.region < 2) row.access.region = 1 - row.access.region;
  }
  return rows;
}

}  // namespace outboard::testing
