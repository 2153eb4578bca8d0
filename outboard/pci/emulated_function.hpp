#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include <outboard/pci/config_space.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/pci/interrupts.hpp>

namespace outboard::pci {

/// A PCI function made in software. It owns configuration space (as data), the address map, the interrupts and the BARs'
/// registers; what derives from it supplies the registers behind the BARs and a reset.
///
/// MSI-X has two masters. Where vectors are bound from outside (bind_interrupts: a VMM keeps the table to itself) a bound
/// eventfd means unmasked, and an unbound vector stays pending and is delivered at the bind. Where the function is driven
/// by table writes, the table's masks rule. See Interrupts.
class EmulatedFunction : public Function {
 public:
  RegionInfo region(unsigned index) const override;
  InterruptInfo interrupts(InterruptKind kind) const override;
  bool resettable() const override { return true; }
  Status read_region(unsigned region, std::uint64_t offset, MutableBytes into) override;
  Status write_region(unsigned region, std::uint64_t offset, Bytes from) override;
  Status map(memory::Mapping mapping) override;
  void unmap(memory::IovaRange range, Completion done) override;
  void unmap_all(Completion done) override;
  Status bind_interrupts(InterruptKind kind, std::uint32_t start, std::vector<EventFd> eventfds) override;
  Status bind_unmask(EventFd eventfd) override;
  Status disable_interrupts(InterruptKind kind) override;
  Status trigger_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status mask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status unmask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  void reset(Completion done) override;
  void release_client(Completion done) override;

 protected:
  struct BarSpec {
    std::uint64_t size = 0;  ///< power of two, at least 16 (memory) — rounded up to it
    bool is_64bit = false;   ///< takes the next BAR register too
    bool prefetchable = false;
    std::vector<MmapArea> areas;  ///< parts that are memory: backed by a file of the function's, shared with the client
  };

  EmulatedFunction(Loop& loop, Log log, const FunctionIdentity& identity);

  /// While it is being made only. EINVAL: the index is taken, the size no power of two, an area not page-aligned.
  Status add_bar(unsigned index, const BarSpec& spec);
  /// An MSI-X capability with its table at `table_offset` and the PBA at `pba_offset` of `bar`. Accesses to them are
  /// served here and never reach read_bar/write_bar.
  Status add_msix(unsigned vectors, unsigned bar, std::uint32_t table_offset, std::uint32_t pba_offset);
  Status add_msi(unsigned vectors);
  Status add_intx();
  /// The memory of an mmap area of a BAR (shared with the client).
  MutableBytes area(unsigned bar, std::size_t index) const;

  /// Registers behind a BAR. Any width and alignment; the range lies inside the BAR.
  virtual void read_bar(unsigned bar, std::uint64_t offset, MutableBytes into) = 0;
  virtual void write_bar(unsigned bar, std::uint64_t offset, Bytes from) = 0;
  /// Stops everything, returns to the power-on state, then calls done.
  virtual void reset_device(Loop::Task done) = 0;
  /// Bus mastering went off or on (driver's Command register). While it is off the device does no DMA.
  virtual void bus_master_changed(bool /*on*/) {}

  Loop& loop() const { return loop_; }
  const Log& log() const { return log_; }
  ConfigSpace& config() { return config_; }
  memory::AddressMap& memory() { return memory_; }
  Interrupts& interrupts() { return interrupts_; }
  bool bus_master() const;

 private:
  struct BarState {
    BarSpec spec;
    std::shared_ptr<memory::HostMemory> shared;  ///< behind the areas
    UniqueFd fd;
  };

  Loop& loop_;
  Log log_;
  ConfigSpace config_;
  memory::AddressMap memory_;
  Interrupts interrupts_;
  std::array<std::optional<BarState>, 6> bars_;
};

}  // namespace outboard::pci
