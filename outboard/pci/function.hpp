#pragma once

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
  const UniqueFd* fd = nullptr;   ///< what to map, when there are areas; the function's
  std::uint64_t fd_offset = 0;    ///< where the region starts in it
};

struct InterruptInfo {
  std::uint32_t count = 0;
  bool maskable = false;    ///< mask and unmask calls work
  bool automasked = false;  ///< masked on delivery, until unmasked (level semantics)
  bool resizable = true;    ///< vectors can be bound one by one
};

/// A doorbell that can be rung without an access: signalling `fd` is the same as writing to the region.
struct IoEventFd {
  std::uint64_t offset = 0;
  std::uint32_t size = 0;  ///< 0: a write of any width
  const EventFd* fd = nullptr;
  std::optional<std::uint64_t> datamatch;
};

/// A PCI function that is served: what vfio_user::Server and LocalHandle talk to. A device made in software derives from
/// EmulatedFunction, a real one is re-exported by Passthrough.
///
/// Every call comes on one thread, that of the loop the function was made with. Register accesses are answered at once
/// and wait for nobody. What ends later takes a completion, called exactly once on that loop, possibly from inside the
/// call; it may destroy the function. A caller does not start another unmap, reset or release_client before the last one has
/// completed.
/// What the arguments say comes from a peer: an implementation validates and returns an error, never more.
class Function {
 public:
  using Completion = std::move_only_function<void(Status)>;

  virtual ~Function() = default;

  virtual RegionInfo region(unsigned index) const = 0;  ///< index < region::count
  virtual InterruptInfo interrupts(InterruptKind kind) const = 0;
  virtual bool resettable() const = 0;
  /// Doorbells of a region; empty for most.
  virtual std::vector<IoEventFd> io_eventfds(unsigned /*region*/) { return {}; }

  /// Reads `into.size()` bytes at `offset` of a region; configuration space is region::config. The caller has checked
  /// that the range lies inside the region. Odd widths and alignment are the device's business, not an error.
  virtual Status read_region(unsigned region, std::uint64_t offset, MutableBytes into) = 0;
  virtual Status write_region(unsigned region, std::uint64_t offset, Bytes from) = 0;

  /// Lets the function reach memory. Errors as memory::AddressMap::map.
  virtual Status map(memory::Mapping mapping) = 0;
  /// Takes memory away; complete when nothing of this function touches it any more. Errors as AddressMap::unmap.
  virtual void unmap(memory::IovaRange range, Completion done) = 0;
  virtual void unmap_all(Completion done) = 0;
  /// An unmap has not completed in time, and the client has been told so: it may use the memory for something else, while
  /// something of this function still touches it. What the device does from here on cannot be trusted, and its driver has to
  /// hear of that, as of any fault that only a reset mends. `what` is for the log.
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
  /// Signals what is bound, as if the device had raised it.
  virtual Status trigger_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) = 0;
  /// How many descriptors it has open for what the client has bound, or had. Fewer rather than more: what is counted here was
  /// set aside before.
  virtual std::uint64_t held_eventfds() const { return 0; }
  /// ENOTTY where the kind is not maskable.
  virtual Status mask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) = 0;
  virtual Status unmask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) = 0;

  /// Returns the function to its power-on state. Mappings and interrupt bindings stay. When it completes without an error,
  /// nothing from before touches memory or signals. That may take as long as a back end takes. A caller that has to answer
  /// earlier says that the reset has not ended (ETIMEDOUT), and starts no other call of this kind before it has.
  virtual void reset(Completion done) = 0;

  /// The client is gone: everything it brought (mappings, eventfds) is let go, and bus mastering is off; the rest of the
  /// device's own state is kept. Completes when nothing touches the client's memory any more, as late as that may be.
  virtual void release_client(Completion done) = 0;
};

/// Makes a function that lives on `loop`. What a server or a local handle is given, since they own the loop.
using FunctionFactory = std::move_only_function<Result<std::unique_ptr<Function>>(Loop& loop, Log log)>;

}  // namespace outboard::pci
