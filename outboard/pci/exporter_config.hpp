#pragma once

#include <cstdint>
#include <memory>

#include <outboard/pci/config_overlay.hpp>
#include <outboard/pci/handle.hpp>

namespace outboard::pci {

/// Configuration space of a function that is re-exported, as its client sees and writes it. BARs start at 0 and lie here
/// alone; MSI and MSI-X are switched by binding interrupts, and their registers only remember; bus mastering reaches the
/// device when the exporter lets it; a reset by register is the device's own. What the client cannot be trusted with, or
/// would not understand, is hidden: see config_rules(), policy `exporter`. One thread. The handle must outlive it.
class ExporterConfig final : public ConfigOverlay {
 public:
  /// Reads the function's configuration space, and puts it into its power-on state (power_on). What the handle says; EPROTO
  /// where a BAR's size is none.
  static Result<std::unique_ptr<ExporterConfig>> create(Handle& handle);

  /// The function answers accesses to its BARs: it is in D0, with Command.memory_space on.
  bool decodes_memory() const { return memory_ && awake_; }
  /// The same for a BAR of I/O ports.
  bool decodes_io() const { return io_ && awake_; }
  /// Where MSI has a mask bit for each vector.
  bool msi_maskable() const;

  /// The client's bus mastering reaches the device from now on, or no longer. What the handle says.
  Status allow_bus_master(bool allowed);
  /// As a client finds a function: in D0, Command is 0, and what a client may write is what it was in the beginning, here and
  /// in the device (not what capabilities of vendors hold, nor vital product data).
  Status power_on();
  /// Is told when the client has reset the function by a register; power_on() has been called then.
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
  std::uint16_t command_ = 0;  ///< as the client has written it
  std::move_only_function<void()> restarted_;
};

}  // namespace outboard::pci
