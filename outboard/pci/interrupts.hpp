#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/pci/function.hpp>

namespace outboard::pci {

/// The interrupts of an emulated function, from the device's call to the eventfd. Control thread, except signal_msix and
/// signal_msi, which a queue may call from its own loop.
///
/// INTx has level semantics: raising it signals the bound eventfd once and masks the line; an unmask while it is still
/// raised signals again. MSI and MSI-X are edges: what finds its vector masked or unbound stays pending and is delivered
/// when that ends.
class Interrupts {
 public:
  explicit Interrupts(Loop& loop);
  ~Interrupts();

  void set_counts(unsigned intx, unsigned msi, unsigned msix);
  InterruptInfo info(InterruptKind kind) const;

  // The client's side: the calls of pci::Function.
  Status bind(InterruptKind kind, std::uint32_t start, std::vector<EventFd> eventfds);
  Status bind_unmask(EventFd eventfd);
  Status disable(InterruptKind kind);
  Status trigger(InterruptKind kind, std::uint32_t start, std::uint32_t count);
  Status mask(InterruptKind kind, std::uint32_t start, std::uint32_t count);
  Status unmask(InterruptKind kind, std::uint32_t start, std::uint32_t count);
  void release_client();

  // The driver's side: MSI-X table, PBA and the enable bits of the capabilities.
  void read_table(std::uint64_t offset, MutableBytes into) const;
  void write_table(std::uint64_t offset, Bytes from);
  void read_pba(std::uint64_t offset, MutableBytes into) const;
  void set_msix_control(bool enabled, bool function_masked);
  void set_msi_control(bool enabled, std::uint32_t mask);
  void set_intx_disabled(bool disabled);   ///< Command register
  void set_bus_master(bool on);            ///< MSI and MSI-X are memory writes: held back while it is off

  // The device's side.
  /// MSI-X is what the driver uses: enabled in the capability, or bound from outside.
  bool msix_enabled() const;
  bool msi_enabled() const;
  void set_intx(bool level);
  bool intx_level() const { return intx_level_; }
  /// vector < the count, else nothing happens. Any thread.
  void signal_msix(unsigned vector);
  void signal_msi(unsigned vector);

  /// Device reset: levels, pending bits, masks and enables as at power-on; bindings stay.
  void reset();

 private:
  struct Vectors;
  Loop& loop_;
  std::unique_ptr<Vectors> vectors_;
  bool intx_level_ = false;
};

}  // namespace outboard::pci
