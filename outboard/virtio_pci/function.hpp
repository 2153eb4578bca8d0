#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/pci/emulated_function.hpp>
#include <outboard/virtio/device.hpp>
#include <outboard/virtio/device_core.hpp>
#include <outboard/virtio_pci/internal/common_config.hpp>
#include <outboard/virtio_pci/registers.hpp>

namespace outboard::virtio_pci {

/// A virtio device as a modern (non-transitional) PCI function: VIRTIO 1.4, 4.1, device side.
///
/// BAR 0 (64-bit memory): common configuration 0x0000, ISR 0x1000, device configuration 0x2000, notification from 0x3000,
/// 4 bytes for each queue. BAR 2 (memory): MSI-X table and pending bits. INTx as well; no MSI (virtio has no use for it).
///
/// Threads: as pci::Function says; interrupts of queues that have a loop of their own are signalled from there. Destroyed on
/// the control loop, while the loops of its queues still exist. If queues have loops of their own, a release_client() or
/// reset() must have ended without an error before, or these loops must not run any more (ReactorPool::stop()).
class Function final : public pci::EmulatedFunction, private virtio::TransportEvents {
 public:
  static constexpr unsigned registers_bar = 0;  ///< the BAR of the virtio structures
  static constexpr unsigned msix_bar = 2;  ///< the BAR of the MSI-X table and its pending bits
  static constexpr std::uint32_t common_at = 0x0000;  ///< common configuration, in registers_bar
  static constexpr std::uint32_t isr_at = 0x1000;  ///< ISR status
  static constexpr std::uint32_t device_at = 0x2000;  ///< device configuration
  static constexpr std::uint32_t notify_at = 0x3000;  ///< doorbells
  /// Bytes from one queue's doorbell to the next one's: room for NOTIFICATION_DATA (VIRTIO 1.4, 4.1.4.4).
  static constexpr std::uint32_t notify_multiplier = 4;

  /// How the function is made.
  struct Options {
    virtio::DeviceCore::Options core{};  ///< of what runs the device: features, loops, polling
    /// MSI-X table entries, 2...2048; 0: one for each queue and one for the configuration, at most 128.
    unsigned vectors = 0;
    /// The doorbells are plain memory that the client maps; a write to them does not wake the server. Only with core.poll.
    bool shared_doorbells = false;
    /// A device that breaks (DEVICE_NEEDS_RESET while a driver runs) raises the ERR interrupt too. QEMU then stops the
    /// virtual machine.
    bool error_interrupt = false;
    std::uint16_t subsystem_vendor = spec::vendor_id;  ///< PCI subsystem vendor ID: informational
    std::optional<std::uint16_t> subsystem{};  ///< 0x40 or more; default: 0x40 + virtio device ID
  };

  /// EINVAL: the device ID cannot be expressed on PCI, an option is out of its range, or the identity is not well-formed.
  /// Otherwise what Device::attach says.
  static Result<std::unique_ptr<Function>> create(std::unique_ptr<virtio::Device> device, Loop& loop, Log log,
                                                  Options options);

  /// Makes a device each time a function is wanted; the loop is the one that the device will live on.
  using DeviceFactory = std::move_only_function<Result<std::unique_ptr<virtio::Device>>(Loop&, Log)>;
  /// What a server makes its function with. It fails as `make_device` or create() does.
  static pci::FunctionFactory factory(DeviceFactory make_device, Options options);

  /// A function for a D made from `args` (kept by value): `Function::of<Increment>()`.
  template <class D, class... Args>
  static pci::FunctionFactory of(Args... args) {
    return factory(
        [... args = std::move(args)](Loop&, const Log&) -> Result<std::unique_ptr<virtio::Device>> {
          return std::make_unique<D>(args...);
        },
        Options{});
  }

  ~Function() override;

  /// The device behind it, the function's own.
  virtio::Device& device() { return *device_; }
  /// What runs the device. Control loop.
  virtio::DeviceCore& core() { return *core_; }

  std::vector<pci::IoEventFd> io_eventfds(unsigned region) override;
  void release_client(Completion done) override;
  pci::Migratable* migratable() override { return this; }
  void unmap_is_late(std::string_view what) override { core_->break_device(what); }

 protected:
  void read_bar(unsigned bar, std::uint64_t offset, MutableBytes into) override;
  /// Offsets are from the start of the BAR; what no structure covers is ignored.
  void write_bar(unsigned bar, std::uint64_t offset, Bytes from) override;
  void area_written(unsigned bar, std::uint64_t offset, Bytes from) override;
  void reset_device(Loop::Task done) override;
  void bus_master_changed(bool on) override;
  void stop_device(Completion done) override;
  void state_taken() override { core_->let_go(); }
  Status run_device() override { return core_->resume(); }
  /// "VFUN", version 1: the section of EmulatedFunction, that of the common configuration, ISR status (8 bits), whether the ERR
  /// interrupt was raised since the last reset (a flag), and the section of the device and its queues (virtio/saved_device.hpp).
  void save_state(StateWriter& writer) const override;
  void load_state(StateReader from, Completion done) override;

 private:
  struct Saved;
  /// What a device reset clears, and a state that is refused must not.
  struct IsrState {
    std::uint8_t bits = 0;
    bool told_error = false;
  };
  struct Doorbell;
  struct Area {
    std::uint32_t offset = 0;
    std::uint32_t length = 0;
  };

  Function(std::unique_ptr<virtio::Device> device, const virtio::Identity& identity, Loop& loop, Log log,
           Options options);

  Status build();
  Status build_bars(unsigned vectors);
  Status build_capabilities();
  Status add_structure(spec::Structure type, Area area, std::uint8_t length);
  Status add_access_window();
  Status watch_doorbells();
  Status watch_doorbell(unsigned queue, Doorbell& doorbell);
  void renew_doorbells();

  unsigned queue_count() const { return static_cast<unsigned>(identity_.queue_sizes.size()); }
  unsigned vector_count() const;
  Loop& queue_loop(unsigned queue);
  Area notify_area() const { return {notify_at, notify_multiplier * queue_count()}; }

  void reset_ended(Loop::Task done);
  Result<std::unique_ptr<Saved>> check_saved(StateReader from) const;
  void restore_isr(const IsrState& isr);
  void put_back(const IsrState& isr);

  // The window of 4.1.4.9.
  bool window_range(std::uint32_t& offset, std::uint32_t& length);
  void read_through_window();
  void write_through_window();

  std::byte take_isr();
  void raise_isr(std::uint8_t bits);
  void tell_error();
  void write_notify(std::uint64_t offset, Bytes from);

  // virtio::TransportEvents
  void notify_queue(unsigned queue) override;
  void notify_config() override;
  void was_reset() override;

  std::unique_ptr<virtio::Device> device_;
  virtio::Identity identity_;
  Options options_;
  std::unique_ptr<virtio::DeviceCore> core_;
  std::optional<CommonConfig> common_;
  std::atomic<std::uint8_t> isr_{0};
  bool told_error_ = false;  ///< since the last reset
  virtio::DeviceState stopped_;  ///< since stop_device() or load_state()
  pci::ConfigOffset window_{};
  std::vector<std::unique_ptr<Doorbell>> doorbells_;
  std::shared_ptr<Function*> self_;  ///< what a task posted to the control loop holds weakly
};

}  // namespace outboard::virtio_pci
