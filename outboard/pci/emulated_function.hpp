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
/// An express function has a Power Management and a PCI Express capability (endpoint, version 2, with function level
/// reset); what the derived class adds follows them.
///
/// A BAR is decoded while Command.memory_space is on, the function is in D0 and no reset is under way. Otherwise an access
/// by call succeeds, reads all-ones and drops what is written, as on a bus. Mapped areas stay mapped: they are memory.
/// While Command.bus_master is off (or the function is not in D0) MSI and MSI-X are held back.
///
/// The Power Management state (D3hot to D0) and Device Control (function level reset) start the same reset as reset().
/// In a reset configuration space is at its power-on values at once, and everything else when the device is done. Until
/// then the BARs are not decoded (a status register reads all-ones), nothing is sent, and Device Status (PCI Express) and
/// the Advanced Features status say Transactions Pending.
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
  std::uint64_t held_eventfds() const override { return interrupts_.held(); }
  Status disable_interrupts(InterruptKind kind) override;
  Status trigger_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status mask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  Status unmask_interrupts(InterruptKind kind, std::uint32_t start, std::uint32_t count) override;
  void reset(Completion done) override;
  void release_client(Completion done) override;

 protected:
  struct BarSpec {
    std::uint64_t size = 0;  ///< power of two; less than 16 is rounded up to 16, the least a memory BAR can have
    bool is_64bit = false;  ///< takes the next BAR register too
    bool prefetchable = false;
    std::vector<MmapArea> areas;  ///< parts that are memory: backed by a file of the function's, shared with the client
  };

  EmulatedFunction(Loop& loop, Log log, const FunctionIdentity& identity);

  /// While it is being made only. EINVAL: the index is taken, the size no power of two (or over 2 GiB in a 32-bit BAR), an
  /// area not page-aligned, outside the BAR or overlapping another.
  Status add_bar(unsigned index, const BarSpec& spec);
  /// An MSI-X capability with its table at `table_offset` and the PBA at `pba_offset` of `bar`. Accesses to them are
  /// served here and never reach read_bar/write_bar. EINVAL: they do not lie inside the BAR, 8-byte aligned, apart from
  /// each other and from mapped areas; or no such BAR, or not 1 to 2048 vectors.
  Status add_msix(unsigned vectors, unsigned bar, std::uint32_t table_offset, std::uint32_t pba_offset);
  /// An MSI capability with 64-bit addresses and per-vector masking. EINVAL: not a power of two up to 32.
  Status add_msi(unsigned vectors);
  Status add_intx();

  /// What a function says about itself in a list of its own: dwords, little-endian, at addresses that are multiples of 4.
  class VitalProductData {
   public:
    virtual ~VitalProductData() = default;
    /// Nothing beyond the end.
    virtual std::optional<std::uint32_t> read(std::uint16_t address) = 0;
    /// False: beyond the end, or not to be written.
    virtual bool write(std::uint16_t address, std::uint32_t value) = 0;
  };
  /// A Vital Product Data capability. EINVAL: there is one.
  Status add_vital_product_data(std::unique_ptr<VitalProductData> data);
  /// An Advanced Features capability: function level reset for a function that is not PCI Express.
  Status add_advanced_features();
  struct ReportedErrors {
    std::uint32_t uncorrectable = 0;  ///< bits of the Uncorrectable Error Status register
    std::uint32_t fatal = 0;  ///< those of them that are fatal at power-on
    std::uint32_t correctable = 0;  ///< bits of the Correctable Error Status register
    bool ecrc = false;
  };
  /// An Advanced Error Reporting capability; what it holds stays through resets. The device sets its status bits.
  Result<ConfigOffset> add_error_reporting(const ReportedErrors& errors);
  /// The memory of an mmap area of a BAR (shared with the client).
  MutableBytes area(unsigned bar, std::size_t index) const;

  /// Registers behind a BAR. Any width and alignment; the range lies inside the BAR, and outside mapped areas and the
  /// MSI-X table: an access that touches several is cut into pieces.
  virtual void read_bar(unsigned bar, std::uint64_t offset, MutableBytes into) = 0;
  virtual void write_bar(unsigned bar, std::uint64_t offset, Bytes from) = 0;
  /// `from` was written by call to a mapped area, and is in its memory already; through a mapping nobody is told.
  virtual void area_written(unsigned /*bar*/, std::uint64_t /*offset*/, Bytes /*from*/) {}
  /// Stops everything, returns to the power-on state, then calls done (on the loop; possibly from
  /// inside the call), and not before nothing touches memory any more: until then the function is in reset. Not called
  /// again before that.
  virtual void reset_device(Loop::Task done) = 0;
  /// Bus mastering went off or on (Command register, power state, reset). While it is off the device does no DMA.
  virtual void bus_master_changed(bool /*on*/) {}

  Loop& loop() const { return loop_; }
  const Log& log() const { return log_; }
  ConfigSpace& config() { return config_; }
  memory::AddressMap& memory() { return memory_; }
  Interrupts& interrupts() { return interrupts_; }
  bool bus_master() const { return bus_master_; }

 private:
  /// A part of a BAR that read_bar and write_bar do not see.
  struct Part {
    enum class Kind : std::uint8_t { registers, area, msix_table, msix_pba } kind = Kind::registers;
    std::uint64_t start = 0;
    std::uint64_t size = 0;
  };
  struct BarState {
    BarSpec spec;
    std::vector<Part> parts;  ///< sorted by start, disjoint
    std::shared_ptr<memory::HostMemory> shared;  ///< behind the areas; starts at the start of the BAR
    UniqueFd fd;

    bool add_part(const Part& part);
    Part part_at(std::uint64_t offset) const;
  };

  void add_express_capabilities(bool no_soft_reset);
  void transfer_vital_product_data(ConfigOffset base);
  void update_interrupt_counts();
  bool decodes_memory() const;
  bool in_d0() const;
  void read_part(unsigned bar, const Part& part, std::uint64_t offset, MutableBytes into);
  void write_part(unsigned bar, const Part& part, std::uint64_t offset, Bytes from);
  void power_state_written(std::uint32_t old_value, std::uint32_t new_value);
  void msi_written();
  void apply_config();
  void start_reset();
  void finish_reset();

  Loop& loop_;
  Log log_;
  ConfigSpace config_;
  memory::AddressMap memory_;
  Interrupts interrupts_;
  std::array<std::optional<BarState>, 6> bars_;
  std::optional<ConfigOffset> power_management_, msi_, msix_;
  std::unique_ptr<VitalProductData> vital_product_data_;
  unsigned intx_count_ = 0, msi_count_ = 0, msix_count_ = 0;
  bool bus_master_ = false;
  bool resetting_ = false;
  std::vector<Completion> reset_waiters_;
  std::shared_ptr<char> alive_ = std::make_shared<char>();  ///< for completions that outlive the function
};

}  // namespace outboard::pci
