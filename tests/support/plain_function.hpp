#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <outboard/pci/emulated_function.hpp>

namespace outboard::testing {

/// A PCI function with a little of everything and no purpose: for tests of what stands in front of a pci::Function.
/// Everything is public, so that a test can look inside.
///
/// BAR 0 has 256 KiB (the layout suits pages of up to 64 KiB), all registers little-endian:
///
///     0x00000  id                   32  reads `id_value`; writes are dropped
///     0x00004  scratch              32
///     0x00008  doorbell             32  a write counts and is remembered; a read returns the last value
///     0x0000C  doorbell count       32
///     0x00010  intx                 32  a write raises (not 0) or lowers the line; reads the level
///     0x00014  signal msix          32  a write signals that vector
///     0x00018  signal msi           32
///     0x00020  dma address          64
///     0x00028  dma length           32  at most 4096
///     0x0002C  dma command          32  1: from memory into the buffer, 2: from the buffer into memory
///     0x00030  dma status           32  0 idle, 1 busy, 2 done, else the errno value + 0x100
///     0x01000  buffer              4096 bytes, any width
///     0x10000  mapped area         64 KiB of shared memory (see Options::area)
///     0x20000  MSI-X table
///     0x30000  MSI-X pending bits
///
/// What is not listed reads as 0. Registers are looked at by whole aligned dwords; other widths reach only the buffer and
/// the area.
class PlainFunction : public pci::EmulatedFunction {
 public:
  static constexpr std::uint32_t id_value = 0x4E4C5000;
  static constexpr std::uint64_t bar_size = 0x40000;
  static constexpr std::uint64_t id_at = 0x0, scratch_at = 0x4, doorbell_at = 0x8, doorbell_count_at = 0xC;
  static constexpr std::uint64_t intx_at = 0x10, signal_msix_at = 0x14, signal_msi_at = 0x18;
  static constexpr std::uint64_t dma_address_at = 0x20, dma_length_at = 0x28, dma_command_at = 0x2C,
                                 dma_status_at = 0x30;
  static constexpr std::uint64_t buffer_at = 0x1000, buffer_size = 0x1000, area_at = 0x10000, area_size = 0x10000;
  static constexpr std::uint64_t msix_table_at = 0x20000, msix_pba_at = 0x30000;
  static constexpr std::uint32_t dma_from_memory = 1, dma_to_memory = 2;
  static constexpr std::uint32_t dma_idle = 0, dma_busy = 1, dma_done = 2, dma_failed = 0x100;

  struct Options {
    pci::FunctionIdentity identity{.vendor = 0x1234,
                                   .device = 0x0B0D,
                                   .subsystem_vendor = 0x1234,
                                   .subsystem = 0x0001,
                                   .class_code = 0xFF0000,
                                   .revision = 1};
    unsigned msix_vectors = 4;  ///< 0: no MSI-X
    unsigned msi_vectors = 4;  ///< 0: no MSI
    bool intx = true;
    bool area = true;  ///< the mapped area is there (QEMU posts no writes to a function that has one)
    bool doorbell_fd = false;  ///< offer the doorbell as an ioeventfd
    bool slow_reset = false;  ///< a reset ends when the test calls finish_reset()
    bool migratable = false;
    bool slow_stop = false;  ///< a stop ends when the test calls finish_stop()
  };

  static Result<std::unique_ptr<PlainFunction>> create(Loop& loop, Log log, const Options& options);
  static Result<std::unique_ptr<PlainFunction>> create(Loop& loop) { return create(loop, Log(), Options{}); }
  /// `made`, if not null, is set to the function when it has been made (on the thread that makes it).
  static pci::FunctionFactory factory(const Options& options, PlainFunction** made = nullptr);

  std::vector<pci::IoEventFd> io_eventfds(unsigned region) override;

  using EmulatedFunction::area;
  using EmulatedFunction::bus_master;
  using EmulatedFunction::config;
  using EmulatedFunction::interrupts;
  using EmulatedFunction::memory;

  std::uint32_t doorbell_count() const { return doorbell_count_; }
  std::uint32_t last_doorbell() const { return doorbell_; }
  std::uint32_t area_writes() const { return area_writes_; }
  unsigned resets() const { return resets_; }
  bool reset_pending() const { return static_cast<bool>(reset_done_); }
  void finish_reset();
  pci::Migratable* migratable() override { return options_.migratable ? this : nullptr; }
  void finish_stop(const Status& result = {}) { std::exchange(stop_done_, nullptr)(result); }
  Status run_result;  ///< of the next run()

  unsigned late_unmaps = 0;  ///< of which the function has been told
  std::function<void()> on_late_unmap;  ///< called then, if there is one
  void unmap_is_late(std::string_view /*what*/) override {
    ++late_unmaps;
    if (on_late_unmap) on_late_unmap();
  }

 protected:
  void read_bar(unsigned bar, std::uint64_t offset, MutableBytes into) override;
  void write_bar(unsigned bar, std::uint64_t offset, Bytes from) override;
  void area_written(unsigned, std::uint64_t, Bytes) override { ++area_writes_; }
  void reset_device(Loop::Task done) override;
  void stop_device(Completion done) override {
    if (!options_.slow_stop) return done({});
    stop_done_ = std::move(done);
  }
  Status run_device() override { return run_result; }

 private:
  PlainFunction(Loop& loop, Log log, const Options& options);
  Status set_up();
  std::uint32_t read_register(std::uint64_t offset) const;
  void write_register(std::uint64_t offset, std::uint32_t value);
  void ring_doorbell(std::uint32_t value);
  void start_dma(std::uint32_t command);
  void dma_ended(const Status& status);

  Options options_;
  std::uint32_t scratch_ = 0, doorbell_ = 0, doorbell_count_ = 0, area_writes_ = 0;
  std::uint64_t dma_address_ = 0;
  std::uint32_t dma_length_ = 0, dma_status_ = dma_idle;
  std::array<std::byte, buffer_size> buffer_{};
  EventFd doorbell_fd_;
  Registration doorbell_watch_;
  bool port_busy_ = false;  ///< a transfer by messages is running
  unsigned resets_ = 0;
  Loop::Task reset_done_;
  Completion stop_done_;
};

}  // namespace outboard::testing
