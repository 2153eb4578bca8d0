#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include <outboard/memory/iova.hpp>
#include <outboard/pci/function.hpp>

namespace outboard::testing {

/// The I/O addresses of one container or IOAS of FakeVfio, with the kernel's rules for mapping and unmapping, which differ
/// between the two. What is mapped reaches the functions that are attached.
class FakeAddressSpace {
 public:
  enum class Kind : std::uint8_t { type1v2, ioas };
  struct Limits {
    std::vector<memory::IovaRange> ranges{{memory::Iova{0}, 0xfee00000},
                                          {memory::Iova{0xfef00000}, (UINT64_C(1) << 39) - 0xfef00000}};
    std::uint64_t page_size = 4096;
    std::uint32_t max_mappings = 65535;
    std::uint64_t lockable = UINT64_MAX;  ///< RLIMIT_MEMLOCK
  };

  FakeAddressSpace(Kind kind, const Limits& limits) : kind_(kind), limits_(limits) {}

  void attach(pci::Function& function, std::function<void()> pump);
  /// 0 or -errno.
  int map(memory::IovaRange range, std::uint64_t host, memory::Access access);
  int unmap(memory::IovaRange range, std::uint64_t& unmapped);
  /// As the end of the container does. `detach`: the functions that are told.
  void clear();
  void detach() { attached_.clear(); }

  Kind kind() const { return kind_; }
  const std::map<memory::Iova, std::uint64_t>& mapped() const { return mapped_; }

 private:
  struct Attached {
    pci::Function* function;
    std::function<void()> pump;
  };
  int check(memory::IovaRange range, std::uint64_t host, memory::Access access) const;
  int unmap_from_functions(memory::IovaRange range);
  std::uint64_t locked() const;

  Kind kind_;
  const Limits& limits_;
  std::vector<Attached> attached_;
  std::map<memory::Iova, std::uint64_t> mapped_;  ///< start to size
};

}  // namespace outboard::testing
