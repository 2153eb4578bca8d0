#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include <outboard/memory/internal/dirty_log.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/pci/internal/config_space.hpp>
#include <outboard/pci/internal/interrupts.hpp>
#include <outboard/pci/migratable.hpp>

namespace outboard::pci {

/// A PCI function in software. It owns configuration space (as data), the address map, the interrupts and the BAR registers.
/// The derived class supplies the registers behind the BARs and a reset.
///
/// An express function has a Power Management and a PCI Express capability (endpoint, version 2, with function level
/// reset); the capabilities of the derived class follow them.
///
/// A BAR is decoded while Command.memory_space is on, the function is in D0 and no reset is under way. Otherwise an access
/// by call succeeds, reads all-ones and drops writes, as on a bus. Mapped areas are memory and stay mapped.
/// While Command.bus_master is off (or the function is not in D0) MSI and MSI-X are held back.
///
/// The Power Management state (D3hot to D0) and Device Control (function level reset) start the same reset as reset().
/// A reset sets configuration space to its power-on values at once, and everything else when the device has finished it. Until
/// then the BARs are not decoded (a status register reads all-ones), no interrupt is sent, and Device Status (PCI Express) and
/// the Advanced Features status report Transactions Pending.
///
/// MSI-X vectors are controlled in one of two ways. If a client binds them (bind_interrupts(): a VMM keeps the table to
/// itself), a bound eventfd means unmasked, and an unbound vector stays pending and is delivered when it is bound. If a driver
/// writes the table, the masks in the table apply. See Interrupts.
///
/// A function that can be moved to another process overrides migratable() to return itself, and save_state(), load_state(),
/// stop_device() and run_device() for what it has beside this class.
class EmulatedFunction : public Function, public Migratable {
 public:
  RegionInfo region(unsigned index) const override;
  InterruptInfo interrupts(InterruptKind kind) const override;
  bool resettable() const override { return true; }
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

  // Migratable. While it is stopped, bus mastering is off and no interrupt is sent, whatever configuration space says. The state is
  // one section, "STAT", version 1, with what save_state() writes.
  bool is_stopped() const final { return motion_ == Motion::stopped; }
  void stop(Completion done) final;
  Status run() final;
  Result<std::vector<std::byte>> save() final;
  void load(std::vector<std::byte> state, Completion done) final;
  Result<std::uint64_t> start_dirty_log(std::uint64_t page_size, std::span<const memory::IovaRange> ranges) final;
  Status report_dirty(memory::IovaRange range, std::uint64_t page_size, MutableBytes bitmap) final;
  void stop_dirty_log() final;

 protected:
  struct BarSpec {
    std::uint64_t size = 0;  ///< power of two; less than 16, the minimum of a memory BAR, is rounded up to 16
    bool is_64bit = false;  ///< uses the next BAR register, too
    bool prefetchable = false;
    std::vector<MmapArea> areas;  ///< parts that are memory, in a file that is shared with the client
  };

  EmulatedFunction(Loop& loop, Log log, const FunctionIdentity& identity);

  /// Only while the function is being made. EINVAL: the index is taken, the size is not a power of two (or over 2 GiB in a
  /// 32-bit BAR), or an area is not page-aligned, outside the BAR or overlaps another one.
  Status add_bar(unsigned index, const BarSpec& spec);
  /// Adds an MSI-X capability with its table at `table_offset` and the PBA at `pba_offset` of `bar`. Accesses to them never
  /// reach read_bar() and write_bar(). EINVAL: one of them is not within the BAR or not 8-byte aligned; they overlap each other
  /// or a mapped area; no such BAR; not 1 to 2048 vectors.
  Status add_msix(unsigned vectors, unsigned bar, std::uint32_t table_offset, std::uint32_t pba_offset);
  /// An MSI capability with 64-bit addresses and per-vector masking. EINVAL: not a power of two up to 32.
  Status add_msi(unsigned vectors);
  Status add_intx();

  /// The data of Vital Product Data: little-endian dwords at addresses that are multiples of 4.
  class VitalProductData {
   public:
    virtual ~VitalProductData() = default;
    /// Nothing: beyond the end.
    virtual std::optional<std::uint32_t> read(std::uint16_t address) = 0;
    /// False: beyond the end, or read-only.
    virtual bool write(std::uint16_t address, std::uint32_t value) = 0;
  };
  /// Adds a Vital Product Data capability. EINVAL: there is one already.
  Status add_vital_product_data(std::unique_ptr<VitalProductData> data);
  /// Adds an Advanced Features capability: function level reset for a function that is not PCI Express.
  Status add_advanced_features();
  struct ReportedErrors {
    std::uint32_t uncorrectable = 0;  ///< bits of the Uncorrectable Error Status register
    std::uint32_t fatal = 0;  ///< those of them that are fatal at power-on
    std::uint32_t correctable = 0;  ///< bits of the Correctable Error Status register
    bool ecrc = false;
  };
  /// Adds an Advanced Error Reporting capability. Its registers survive resets; the device sets its status bits.
  Result<ConfigOffset> add_error_reporting(const ReportedErrors& errors);
  /// The memory of an mmap area of a BAR (shared with the client).
  MutableBytes area(unsigned bar, std::size_t index) const;

  /// The registers of a BAR. Any width and alignment. The range is within the BAR and outside of mapped areas and of the
  /// MSI-X table; an access that touches several of these is divided.
  virtual void read_bar(unsigned bar, std::uint64_t offset, MutableBytes into) = 0;
  virtual void write_bar(unsigned bar, std::uint64_t offset, Bytes from) = 0;
  /// A call wrote `from` to a mapped area; it is in the memory already. Writes through a mapping are not reported.
  virtual void area_written(unsigned /*bar*/, std::uint64_t /*offset*/, Bytes /*from*/) {}
  /// Stops everything, returns to the power-on state, and calls `done` (on the loop; calling it inside this call is allowed)
  /// once nothing of the device accesses memory any more: until then the function is in reset. Not called
  /// again before that.
  virtual void reset_device(Loop::Task done) = 0;
  /// Bus mastering was turned off or on (Command register, power state, reset). While it is off the device must not do DMA.
  virtual void bus_master_changed(bool /*on*/) {}

  /// For stop(): ends what accesses memory and raises interrupts, with the device's state as it would go on; then calls `done` on
  /// the loop. An error: the device goes on, and could not be stopped.
  virtual void stop_device(Completion done) { done({}); }
  /// Expires with the function: for completions that may outlive it.
  std::weak_ptr<const void> alive() const { return alive_; }
  /// For save(): the state has been saved, and another process may go on with it.
  virtual void state_taken() {}
  /// For run(): goes on after stop_device() or load_state(). Interrupts and bus mastering are on again.
  virtual Status run_device() { return {}; }
  /// For save(): the state, with the device stopped. Section "FUNC", version 1: configuration space, interrupts, the number of mapped
  /// areas (32 bits), and for each a section "AREA", version 1: BAR (8 bits), offset in it (64 bits), bytes. What derives from
  /// this class writes a section of its own with this one in it.
  virtual void save_state(StateWriter& writer) const;
  /// For load(): checks the whole of what save_state() has written, which is all that `from` has, before it changes anything. The
  /// bytes are there until `done` is called.
  virtual void load_state(StateReader from, Completion done);

  /// Section "FUNC", checked; of the reader's bytes.
  struct SavedFunction {
    Bytes config;
    Interrupts::Saved interrupts;
    struct Area {
      unsigned bar = 0;
      std::size_t index = 0;
      Bytes bytes;
    };
    std::vector<Area> areas;
  };
  /// The next section of `from`. EINVAL: it is not of such a function. ENOTSUP: it is of a newer version.
  Result<SavedFunction> check_saved(StateReader& from) const;
  /// Takes what check_saved() has returned.
  void restore(const SavedFunction& saved);

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
  Status read_checked(unsigned region, std::uint64_t offset, MutableBytes into) override;
  Status write_checked(unsigned region, std::uint64_t offset, Bytes from) override;
  void read_part(unsigned bar, const Part& part, std::uint64_t offset, MutableBytes into);
  void write_part(unsigned bar, const Part& part, std::uint64_t offset, Bytes from);
  void power_state_written(std::uint32_t old_value, std::uint32_t new_value);
  void msi_written();
  void apply_config();
  void save_areas(unsigned bar, StateWriter& writer) const;
  Result<SavedFunction::Area> check_saved_area(StateReader& from, unsigned bar, std::size_t index) const;
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
  enum class Motion : std::uint8_t { running, stopping, stopped } motion_ = Motion::running;
  std::unique_ptr<memory::DirtyLog> dirty_log_;  ///< since the first start_dirty_log()
  bool is_logging_ = false;
  std::vector<std::byte> loading_;  ///< the state that is being loaded
  std::vector<Completion> reset_waiters_;
  std::shared_ptr<char> alive_ = std::make_shared<char>();  ///< for completions that outlive the function
};

}  // namespace outboard::pci
