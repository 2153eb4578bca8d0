#pragma once

#include <cstdint>
#include <memory>

#include <outboard/pci/handle.hpp>
#include <outboard/pci/internal/config_overlay.hpp>

namespace outboard::pci {

/// Configuration space of a re-exported function, as its client reads and writes it. BARs start at 0 and are virtual. Binding
/// interrupts enables MSI and MSI-X; their enable bits are virtual. Bus mastering reaches the device when the exporter allows
/// it; a reset by register is passed to the device. Registers that the client cannot be trusted with, or cannot use, are
/// hidden: see config_rules(), policy `exporter`. One thread. The handle must outlive it.
class ExporterConfig final : public ConfigOverlay {
 public:
  /// Reads the function's configuration space, and calls power_on(). EPROTO: a BAR has an invalid size. Other errors: those of
  /// the handle.
  static Result<std::unique_ptr<ExporterConfig>> create(Handle& handle);

  /// Whether the function decodes accesses to memory BARs: it is in D0, with Command.memory_space set.
  bool decodes_memory() const { return memory_ && awake_; }
  /// The same for BARs of I/O ports.
  bool decodes_io() const { return io_ && awake_; }
  /// Whether MSI has a mask bit for each vector.
  bool msi_maskable() const;

  /// Sets whether the client's bus mastering bit reaches the device. Errors: those of the handle.
  Status allow_bus_master(bool allowed);
  /// Returns to the state for a new client: D0, Command is 0, and all bits that a client may write have their initial values,
  /// here and in the device (except vendor-specific capabilities and vital product data).
  Status power_on();
  /// Sets a handler that is called when the client has reset the function by a register, after power_on().
  void on_restart(std::move_only_function<void()> handler) { restarted_ = std::move(handler); }

 protected:
  Status write_chunk(Chunk chunk, std::uint32_t value) override;

 private:
  struct HandleConfig final : ConfigHardware {
    explicit HandleConfig(Handle& the_handle) : handle(the_handle) {}
    Status read_config(std::uint16_t offset, MutableBytes into) override {
      return handle.read_region(region::config, offset, into);
    }
    Status write_config(std::uint16_t offset, Bytes from) override {
      return handle.write_region(region::config, offset, from);
    }
    Handle& handle;
  };

  ExporterConfig(std::unique_ptr<HandleConfig> hardware, Bytes image, bool intx);
  Status find_bases();
  Status wake();
  Status restore_device();
  template <typename F>
  Status for_each_register(F what);
  Result<std::uint32_t> written_register(Chunk chunk, std::uint32_t value, std::uint16_t at, unsigned width);
  Status write_command(Chunk chunk, std::uint32_t value);
  Status send_command(std::uint16_t command);
  Status write_power_state(Chunk chunk, std::uint32_t value);
  Status write_device_control(Chunk chunk, std::uint32_t value);
  Status write_advanced_features(Chunk chunk, std::uint32_t value);
  void clamp_msi(Chunk chunk);
  Status restart();

  std::unique_ptr<HandleConfig> hardware_;
  bool intx_;
  bool memory_ = false, io_ = false, awake_ = true;
  bool allowed_ = false;
  std::uint16_t command_ = 0;  ///< the value that the client has written
  std::move_only_function<void()> restarted_;
};

}  // namespace outboard::pci
