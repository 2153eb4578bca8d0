#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <outboard/memory/internal/fault_registry.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/vfio/internal/kernel.hpp>

namespace outboard::vfio {

/// The parts of a device's BARs that are mapped into this process. Each lies at one address for as long as this lives, and
/// there is always something behind it: the device, or, while it is covered, memory that reads as all-ones. So a thread
/// that looks through a window needs no lock, whatever happens to the device.
///
/// Memory mapped from a device keeps it open in the kernel: close() comes before the device's file is closed, and a forked
/// child does not inherit it. One thread at a time.
class Windows {
 public:
  Windows(Kernel& kernel, const DeviceFd& device);
  ~Windows();
  Windows(const Windows&) = delete;
  Windows& operator=(const Windows&) = delete;

  /// A window onto [offset, offset + length) of a region, which lies inside `area`; `region_offset`: of the region in the
  /// device's file. The whole area is mapped, the first time. What mmap says otherwise.
  Result<pci::Window> window(unsigned region, std::uint64_t region_offset, const pci::MmapArea& area, bool writable,
                             std::uint64_t offset, std::uint64_t length);

  /// Takes the device away from behind every window, before its registers go; and puts it back. Nothing changes where it
  /// is so already. uncover() fails when a window cannot be mapped again: it stays covered, and so does this, for another
  /// try.
  void cover();
  Status uncover();
  bool covered() const { return covered_; }
  /// Covers every window for good: nothing of the device is mapped any more.
  void close();

 private:
  enum class Behind : std::uint8_t { device, some_of_it, ones };
  struct Mapped {
    unsigned region;
    pci::MmapArea area;
    std::uint64_t file_offset;
    int protection;
    std::byte* at;
    std::uint64_t length;  ///< whole pages
    memory::FaultSlot* slot;
    Behind behind;
  };
  Result<const Mapped*> map(unsigned region, std::uint64_t region_offset, const pci::MmapArea& area, bool writable);
  memory::GuardedRange guarded(const Mapped& mapped) const;
  void cover(Mapped& mapped);
  Status uncover(Mapped& mapped);

  Kernel& kernel_;
  const DeviceFd& device_;
  std::vector<Mapped> mapped_;
  UniqueFd ones_;  ///< for the fault guard, and to cover with when no other can be made
  bool covered_ = false;
  bool closed_ = false;
};

}  // namespace outboard::vfio
