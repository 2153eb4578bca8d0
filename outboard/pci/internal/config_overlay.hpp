#pragma once

#include <array>
#include <optional>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/pci/internal/config_map.hpp>

namespace outboard::pci {

/// The configuration space under an overlay: that of a real function, or of a fake. Accesses have 1, 2 or 4 bytes at their
/// natural alignment.
class ConfigHardware {
 public:
  virtual ~ConfigHardware() = default;
  virtual Status read_config(std::uint16_t offset, MutableBytes into) = 0;
  virtual Status write_config(std::uint16_t offset, Bytes from) = 0;
};

/// A function's configuration space as it is presented to another party: virtual bits are stored here, the others are the
/// hardware's. Reads beyond the end return 0, writes there are dropped. One thread. The hardware must outlive it.
class ConfigOverlay {
 public:
  virtual ~ConfigOverlay() = default;

  std::size_t size() const { return map_.size(); }
  const ConfigMap& map() const { return map_; }

  /// Any range. Errors: those of the hardware.
  Status read(std::uint64_t offset, MutableBytes into);
  Status write(std::uint64_t offset, Bytes from);

  /// The virtual bits, without masks and effects: 1, 2 or 4 bytes.
  std::uint32_t get(std::size_t offset, unsigned width) const;
  void set(std::size_t offset, unsigned width, std::uint32_t value);
  template <typename R>
  R get(std::size_t offset) const {
    return R(static_cast<typename R::value_type>(get(offset, sizeof(typename R::value_type))));
  }

 protected:
  /// A piece of an access that stays inside one register (exporter) or one capability (kernel_mirror).
  struct Chunk {
    std::uint16_t at = 0;
    std::uint8_t size = 1;
    bool touches(std::size_t offset, std::size_t width = 1) const {
      return at < offset + width && offset < std::size_t{at} + size;
    }
  };

  ConfigOverlay(ConfigHardware& hardware, ConfigPolicy policy, Bytes image);
  /// All of the hardware's configuration space, read dword by dword.
  static Result<std::vector<std::byte>> read_image(ConfigHardware& hardware, std::size_t size);

  virtual Status read_chunk(Chunk chunk, MutableBytes into);
  /// Writes the writable bits, here and in the hardware. A derived class adds the effects of the register.
  virtual Status write_chunk(Chunk chunk, std::uint32_t value);

  /// The size and kind of a BAR or the ROM (index 6); size 0: there is none.
  void set_base_address(unsigned index, std::uint64_t size);
  /// Sizing: keeps the address bits, restores the flags.
  void settle_base_addresses();
  /// Resets the virtual bits to their initial values; not the hardware's.
  void restore_initial();

  /// Resets the writable bits of the hardware to their initial values, except in forwarded capabilities.
  Status restore_hardware(Chunk chunk);

  /// The part of an access that lies in one register.
  Chunk chunk_at(std::size_t offset, std::size_t length) const;
  Result<std::uint32_t> hardware_read(std::size_t offset, unsigned width);
  Status hardware_write(std::size_t offset, unsigned width, std::uint32_t value);
  /// The offset of a register of the capability that contains `chunk`, which need not be the first one with its id.
  std::optional<std::uint16_t> register_beside(Chunk chunk, std::uint16_t in_capability) const;
  /// The offset of a register of the first visible capability with this id.
  std::optional<std::uint16_t> register_of(std::uint8_t capability, std::uint16_t in_capability) const;

 private:
  struct Base {
    std::uint64_t size = 0;
    std::uint32_t flags = 0;
    bool upper_half = false;
  };
  struct Masks {
    std::uint32_t virt = 0, write = 0, clears = 0;
    bool forwarded = false;
  };
  Masks masks_of(Chunk chunk) const;

  ConfigHardware& hardware_;
  ConfigMap map_;
  std::vector<std::byte> values_;
  std::array<Base, 7> bases_;
};

}  // namespace outboard::pci
