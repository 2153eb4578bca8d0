#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include <outboard/devices/edu/registers.hpp>
#include <outboard/pci/emulated_function.hpp>

namespace outboard::edu {

/// QEMU's educational device in software: the smallest function that is not a virtio device. A conventional PCI function with
/// one BAR of registers, INTx, one MSI vector, and a DMA engine.
///
/// Work that takes time runs later, on the loop, so that no register access waits. A reset ends it and sets the registers and
/// the buffer to 0.
///
/// One thread, that of its loop, as for any pci::Function.
class Device final : public pci::EmulatedFunction {
 public:
  struct Options {
    /// Address bits of the DMA engine; higher bits are lost, as on a real bus.
    std::uint64_t dma_mask = spec::default_dma_mask;
    /// Duration of the work; 0: until the next pass of the loop. Transfers of QEMU's device take 100 ms.
    Duration factorial_time{0};
    Duration dma_time{0};
  };

  static Result<std::unique_ptr<Device>> create(Loop& loop, Log log, const Options& options);
  static Result<std::unique_ptr<Device>> create(Loop& loop) { return create(loop, Log(), Options{}); }
  static pci::FunctionFactory factory(const Options& options);

  /// Transfers that did not move all bytes: outside the buffer or the memory, or with bus mastering off. The device has no
  /// register for it.
  std::uint64_t failed_transfers() const { return failed_transfers_; }

  pci::Migratable* migratable() override { return this; }

 protected:
  void read_bar(unsigned bar, std::uint64_t offset, MutableBytes into) override;
  void write_bar(unsigned bar, std::uint64_t offset, Bytes from) override;
  void reset_device(Loop::Task done) override;
  void stop_device(Completion done) override;
  Status run_device() override;
  /// "EDU ", version 1: the section of EmulatedFunction; liveness, factorial, its status and the causes of interrupts (32 bits each);
  /// source, destination, count and command of the DMA engine (64 bits each); its buffer (bytes). Work that has begun begins anew.
  void save_state(StateWriter& writer) const override;
  void load_state(StateReader from, Completion done) override;

 private:
  struct Saved;
  using Buffer = std::array<std::byte, spec::buffer_size>;

  Device(Loop& loop, Log log, const Options& options);
  Status set_up();

  std::optional<std::uint64_t> read_register(std::uint64_t offset) const;
  void write_register(std::uint64_t offset, std::uint64_t value);
  void write_dma_register(std::uint64_t offset, std::uint64_t value);

  void start_factorial(std::uint32_t number);
  void run_factorial();
  void end_factorial();
  void start_transfer();
  void run_transfer();
  void end_transfer(const Status& status);

  void raise_interrupt(std::uint32_t causes);
  void acknowledge_interrupt(std::uint32_t causes);
  void return_to_power_on();
  Result<std::unique_ptr<Saved>> check_saved(StateReader from) const;

  Options options_;
  std::uint32_t liveness_ = 0;
  std::uint32_t factorial_ = 0;
  ComputationStatus status_;
  std::uint32_t causes_ = 0;
  DmaSource source_;
  DmaDestination destination_;
  DmaCount count_;
  DmaCommand command_;
  std::shared_ptr<Buffer> buffer_ = std::make_shared<Buffer>();  ///< a transfer by messages keeps it, too

  Registration factorial_timer_, dma_timer_;
  bool moving_ = false;  ///< a transfer is touching memory
  std::uint64_t failed_transfers_ = 0;
  Completion stop_done_;  ///< waits for it, too
  Loop::Task reset_done_;  ///< waits for the transfer that is touching memory
};

}  // namespace outboard::edu
