#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <outboard/pci/internal/config_overlay.hpp>

namespace outboard::pci {

/// Configuration space as Linux' vfio-pci presents it to the owner of a device, quirks included: reads and writes do what pread
/// and pwrite of region 7 do. For the fake kernel of tests, and to explain the kernel's behaviour. For an emulated function see
/// ConfigSpace.
class KernelConfig final : public ConfigOverlay {
 public:
  /// The device, and what the kernel does to it beside accesses to its configuration space. Every call is made inside write().
  class Device : public ConfigHardware {
   public:
    /// Memory decoding is switched on or off. Mappings of BARs are revoked before it is switched off.
    virtual void memory_decoding(bool /*on*/) {}
    /// The user masks, or unmasks, INTx by Command.
    virtual void intx_disabled(bool /*disabled*/) {}
    /// D0 to D3hot. The kernel saves and restores configuration space around D3hot where the device does not.
    virtual void set_power_state(unsigned /*state*/) {}
    /// A reset of the function, by any method of the kernel, which saves and restores configuration space around it.
    virtual void reset_function() {}
    virtual std::optional<std::uint32_t> read_vital_product_data(std::uint16_t /*address*/) { return std::nullopt; }
    virtual bool write_vital_product_data(std::uint16_t /*address*/, std::uint32_t /*data*/) { return false; }
  };

  struct Facts {
    std::array<std::uint64_t, 7> base_sizes{};  ///< of BARs 0 to 5 and the ROM; 0: absent, or not assigned by the host
    bool intx = true;  ///< false: the pin reads 0
    std::size_t size = 256;  ///< 256 or 4096
  };

  /// The state at the first open of the device; BARs are later restored to these values. Errors: those of the device.
  static Result<std::unique_ptr<KernelConfig>> create(Device& device, const Facts& facts);

  /// Whether BARs can be accessed: in D0 to D2, with the virtual Command.memory_space set.
  bool memory_enabled() const;
  unsigned power_state() const { return power_state_; }
  /// How many MSI vectors VFIO_DEVICE_SET_IRQS has enabled; 0: MSI is not enabled.
  void set_msi_vectors(unsigned vectors) { msi_vectors_ = vectors; }

 protected:
  Status write_chunk(Chunk chunk, std::uint32_t value) override;

 private:
  KernelConfig(Device& device, Bytes image, const Facts& facts);
  bool inside(Chunk chunk, std::uint8_t capability) const;
  Status write_header(Chunk chunk, std::uint32_t value);
  Status before_command(std::uint32_t value);
  Status restore_lost_bases(std::uint32_t value);
  void after_command(Chunk chunk, std::uint32_t value);
  Status write_msi(Chunk chunk, std::uint32_t value);
  Status write_express(Chunk chunk, std::uint32_t value);
  Status write_advanced_features(Chunk chunk, std::uint32_t value);
  Status write_power(Chunk chunk, std::uint32_t value);
  Status write_vital_product_data(Chunk chunk, std::uint32_t value);

  Device& device_;
  std::array<std::uint32_t, 7> saved_bases_{};
  unsigned power_state_ = 0;
  unsigned msi_vectors_ = 0;
  bool intx_disabled_ = false;
};

}  // namespace outboard::pci
