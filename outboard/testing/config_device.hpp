#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/pci/internal/kernel_config.hpp>

namespace outboard::testing {

/// The configuration space of a device with one capability of each kind, as plain bytes: every bit is writable, so that a test
/// sees what arrives. Records what the kernel would do to the device beside accesses.
class ConfigDevice final : public pci::KernelConfig::Device {
 public:
  static constexpr std::uint16_t power = 0x40, vpd = 0x48, msi = 0x50, express = 0x70, msix = 0xB0, features = 0xBC,
                                 vendor = 0xC4, hidden = 0xD0, gap = 0xE0;
  static constexpr std::uint16_t errors = 0x100, hidden_extended = 0x140, serial = 0x150, designated = 0x160,
                                 translation = 0x180, gap_extended = 0x200;

  struct Access {
    std::uint16_t at;
    std::size_t size;
    std::uint32_t value;
    friend bool operator==(const Access&, const Access&) = default;
  };

  ConfigDevice();

  std::uint32_t get(std::uint16_t at, unsigned width) const;
  void put(std::uint16_t at, unsigned width, std::uint32_t value);
  std::vector<std::byte>& bytes() { return bytes_; }

  Status read_config(std::uint16_t offset, MutableBytes into) override;
  Status write_config(std::uint16_t offset, Bytes from) override;
  void memory_decoding(bool on) override { decoding.push_back(on); }
  void intx_disabled(bool disabled) override { intx.push_back(disabled); }
  void set_power_state(unsigned state) override { states.push_back(state); }
  void reset_function() override { ++resets; }
  std::optional<std::uint32_t> read_vital_product_data(std::uint16_t address) override;
  bool write_vital_product_data(std::uint16_t address, std::uint32_t data) override;

  std::vector<Access> writes;
  unsigned reads = 0, resets = 0;
  std::vector<bool> decoding, intx;
  std::vector<unsigned> states;
  std::array<std::uint32_t, 4> product_data{0x11111111, 0x22222222, 0x33333333, 0x44444444};

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace outboard::testing
