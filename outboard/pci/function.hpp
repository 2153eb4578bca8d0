#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/memory/address_map.hpp>

namespace outboard::pci {

class Migratable;

/// The regions of a PCI function, numbered as VFIO and vfio-user number them.
namespace region {
constexpr unsigned bar0 = 0, bar5 = 5, rom = 6, config = 7, vga = 8, count = 9;
}

/// The interrupt indexes, numbered as VFIO and vfio-user number them.
enum class InterruptKind : std::uint8_t { intx = 0, msi = 1, msix = 2, error = 3, request = 4 };
constexpr unsigned interrupt_kind_count = 5;

/// A part of a region that may be mapped. Offsets are from the start of the region.
struct MmapArea {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

struct RegionInfo {
  std::uint64_t size = 0;  ///< 0: the function does not have this region
  bool readable = false;
  bool writable = false;
  std::vector<MmapArea> areas;    ///< empty: accesses by call only
  const UniqueFd* fd = nullptr;   ///< the file to map if there are areas; owned by the function
  std::uint64_t fd_offset = 0;    ///< start of the region in that file
};

struct InterruptInfo {
  std::uint32_t count = 0;
  bool maskable = false;    ///< mask and unmask calls work
  bool automasked = false;  ///< masked on delivery, until unmasked (level semantics)
  bool resizable = true;    ///< vectors can be bound one by one
};

/// A doorbell that can be rung without a register access: signalling `fd` equals a write to the region.
struct IoEventFd {
  std::uint64_t offset = 0;
  std::uint32_t size = 0;  ///< 0: a write of any width
  const EventFd* fd = nullptr;
  std::optional<std::uint64_t> datamatch;
};

/// A PCI function that is served by vfio_user::Server or driven through LocalHandle. A device in software derives from
/// EmulatedFunction; Passthrough re-exports a real one.
///
/// All calls come on one thread, that of the loop the function was made with. Register accesses are answered at once, without
/// waiting. A call that ends later takes a completion, which is called exactly once on that loop, possibly inside the
/// call; it may destroy the function. A caller does not start another unmap, reset or release_client before the last one has
/// completed.
/// The arguments come from a peer: an implementation validates them and, at worst, returns an error. Accesses to regions are
/// checked here, before they reach it.
class Function {
 public:
  using Completion = std::move_only_function<void(Status)>;

  virtual ~Function() = default;

  /// index < region::count. The size of a region and how it may be accessed stay as they are once the function is made.
  virtual RegionInfo region(unsigned index) const = 0;
  virtual InterruptInfo interrupts(InterruptKind kind) const = 0;
  virtual bool resettable() const = 0;
  /// The doorbells of a region; none for most regions.
  virtual std::vector<IoEventFd> io_eventfds(unsigned /*region*/) { return {}; }

  /// Reads `into.size()` bytes at `offset` of a region; configuration space is region::config. EINVAL: not within a region that
  /// the function has. EACCES: the region is not readable (writable). Other errors are the device's. Odd widths and alignments
  /// are not an error; the device decides what they do.
  Status read_region(unsigned region, std::uint64_t offset, MutableBytes into);
  Status write_region(unsigned region, std::uint64_t offset, Bytes from);
  /// The check of read_region() alone, for a caller that has yet to make room for `length` bytes. Errors: EINVAL and EACCES as
  /// there.
  Status check_read(unsigned region, std::uint64_t offset, std::uint64_t length) const;

  /// Maps memory for the function. Errors as memory::AddressMap::map().
  virtual Status map(memory::Mapping mapping) = 0;
  /// Unmaps memory; completes when nothing of this function accesses it any more. Errors as AddressMap::unmap().
  virtual void unmap(memory::IovaRange range, Completion done) = 0;
  virtual void unmap_all(Completion done) = 0;
  /// An unmap has not completed in time, and the client was told so: it may use the memory for something else while I/O of
  /// this function still accesses it. The device cannot be trusted until it is reset, and must tell its driver so. `what` is
  /// for the log.
  virtual void unmap_is_late(std::string_view /*what*/) {}

  /// Binds one eventfd to each vector from `start`; an invalid EventFd unbinds that vector. Replaces what was bound.
  /// With an empty span, and with only invalid ones, the kind becomes enabled with nothing bound (an MSI-X enable with
  /// all vectors masked). EINVAL: beyond the count, another of INTx, MSI and MSI-X is enabled, or INTx with the eventfd
  /// of bind_unmask().
  virtual Status bind_interrupts(InterruptKind kind, std::uint32_t start, std::vector<EventFd> eventfds) = 0;
  /// INTx only: each signal of `eventfd` is an unmask. An invalid one unbinds. EINVAL: no INTx, or its own eventfd.
  virtual Status bind_unmask(EventFd eventfd) = 0;
  /// Unbinds everything of this kind and drops what is pending. Always succeeds for a kind with nothing enabled.
  virtual Status disable_interrupts(InterruptKind kind) = 0;
  /// Signals the bound eventfds, as if the device had raised the interrupt.
  virtual Status trigger_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) = 0;
  /// The number of descriptors that it has open for eventfds of the client. It may return fewer, never more: they count
  /// against those that were reserved before.
  virtual std::uint64_t held_eventfds() const { return 0; }
  /// ENOTTY: the kind is not maskable.
  virtual Status mask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) = 0;
  virtual Status unmask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) = 0;

  /// Returns the function to its power-on state. Mappings and interrupt bindings stay. When it completes without an error, no
  /// earlier I/O accesses memory and no earlier interrupt is signalled; that may take as long as the back end takes. A caller
  /// that must answer earlier reports ETIMEDOUT, and starts no other call of this kind before the reset has completed.
  virtual void reset(Completion done) = 0;

  /// The client is gone: releases its mappings and eventfds, and turns bus mastering off; the rest of the device's state is
  /// kept. Completes when nothing accesses the client's memory any more, however late.
  virtual void release_client(Completion done) = 0;

  /// What moves it to another process (pci/migratable.hpp); null: it cannot be moved. The function's own.
  virtual Migratable* migratable() { return nullptr; }

 protected:
  /// An access that has passed the check: at least one byte, all of it within a region that is readable (writable).
  virtual Status read_checked(unsigned region, std::uint64_t offset, MutableBytes into) = 0;
  virtual Status write_checked(unsigned region, std::uint64_t offset, Bytes from) = 0;

 private:
  struct Limits {
    std::uint64_t size = 0;  ///< 0: the function does not have this region, or has not been asked
    bool readable = false;
    bool writable = false;
  };

  void learn_limits(unsigned index) const;
  bool allows(unsigned region, std::uint64_t offset, std::uint64_t length, bool Limits::* direction) const;
  Error refusal(unsigned region, std::uint64_t offset, std::uint64_t length) const;

  mutable std::array<Limits, region::count> limits_{};  ///< what region() has said
};

/// Makes a function that lives on `loop`. A server or a local handle takes a factory, since it owns the loop.
using FunctionFactory = std::move_only_function<Result<std::unique_ptr<Function>>(Loop& loop, Log log)>;

}  // namespace outboard::pci
