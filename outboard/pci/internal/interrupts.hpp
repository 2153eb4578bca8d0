#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/state.hpp>
#include <outboard/pci/function.hpp>

namespace outboard::pci {

/// The interrupts of an emulated function, from the device's call to the eventfd. Control thread, except signal_msix and
/// signal_msi, which a queue may call from its own loop.
///
/// INTx has level semantics: raising it signals the bound eventfd once and masks the line; an unmask while it is still
/// raised signals again. MSI and MSI-X are edges: a signal for a masked or unbound vector stays pending until the vector is
/// unmasked and bound.
///
/// Masking of MSI-X: a client that emulates the table itself (QEMU, a driver over pci::Handle) masks a vector by unbinding its
/// eventfd, so a bound vector is unmasked, whatever our table contains. If a client writes our table, then from its first table
/// write until a reset or the client's end also Enable, Function Mask and the entry's mask bit apply. The mask bit of an MSI
/// vector always applies: every client forwards it.
///
/// ERR and REQ, one of each, are for the client and not for the driver: trigger() raises them. They may be bound beside any
/// other kind and cannot be masked; unbound, they are not kept pending.
///
/// A descriptor that is not an eventfd counts as unbound, since a write to it might block.
class Interrupts {
 public:
  explicit Interrupts(Loop& loop);
  ~Interrupts();

  /// Sets the numbers of vectors, while the function is being made. Drops all bindings.
  void set_counts(unsigned intx, unsigned msi, unsigned msix);
  InterruptInfo info(InterruptKind kind) const;

  // The client's side: the calls of pci::Function.
  Status bind(InterruptKind kind, std::uint32_t start, std::vector<EventFd> eventfds);
  Status bind_unmask(EventFd eventfd);
  std::uint64_t held() const;
  Status disable(InterruptKind kind);
  Status trigger(InterruptKind kind, std::uint32_t start, std::uint32_t count);
  Status mask(InterruptKind kind, std::uint32_t start, std::uint32_t count);
  Status unmask(InterruptKind kind, std::uint32_t start, std::uint32_t count);
  /// Unbinds everything, and forgets that the client wrote the table.
  void release_client();

  // The driver's side: MSI-X table, PBA and the enable bits of the capabilities. Offsets are from the start of the table
  // or the PBA; outside of it reads return 0 and writes are dropped.
  void read_table(std::uint64_t offset, MutableBytes into) const;
  void write_table(std::uint64_t offset, Bytes from);
  void read_pba(std::uint64_t offset, MutableBytes into) const;
  /// A bit for each MSI vector.
  std::uint32_t msi_pending() const;
  void set_msix_control(bool enabled, bool function_masked);
  void set_msi_control(bool enabled, std::uint32_t mask);
  void set_intx_disabled(bool disabled);  ///< Command register
  void set_bus_master(bool on);  ///< MSI and MSI-X are memory writes: held back while it is off

  // The device's side.
  /// Whether the driver uses MSI-X: it is enabled in the capability, or the client has bound vectors.
  bool msix_enabled() const;
  bool msi_enabled() const;
  void set_intx(bool level);
  bool intx_level() const { return intx_level_; }
  /// Does nothing if `vector` is not less than the count, or the kind is not enabled. Any thread; never blocks. For a bound and
  /// unmasked vector it costs one atomic load and one system call.
  void signal_msix(unsigned vector);
  void signal_msi(unsigned vector);

  /// Device reset: levels, pending bits, masks and enables as at power-on; bindings stay.
  void reset();

  /// Section "INTR", version 1: the state that a driver sees and that is not in configuration space. INTx level,
  /// whether the table applies (two flags); the table and its pending bits (bytes); the pending bits of MSI (32 bits); the kind
  /// that the client has enabled (8 bits: an InterruptKind of the first three, or 255). What the client has bound or masked is
  /// not saved: a line that is up is signalled once more.
  void save(StateWriter& writer) const;

  /// What save() wrote; the bytes are the reader's.
  struct Saved {
    bool intx_level = false;
    bool table_rules = false;
    Bytes table;
    Bytes pending;  ///< the Pending Bit Array
    std::uint32_t msi_pending = 0;
    std::optional<InterruptKind> enabled;  ///< by the client
  };
  /// The next section of `from`. EINVAL: it is not of as many vectors, or has bits that nothing sets. ENOTSUP: as
  /// StateReader::section().
  Result<Saved> check_saved(StateReader& from) const;
  /// Takes what check_saved() has returned. The enable bits have been set before: enabling drops what is pending. The kind that the
  /// client had enabled counts as enabled with nothing bound, unless the client of this function has bound something.
  void restore(const Saved& saved);

 private:
  struct State;
  void fire_intx();
  void unmask_intx();

  Loop& loop_;
  std::unique_ptr<State> state_;
  bool intx_level_ = false;
};

}  // namespace outboard::pci
