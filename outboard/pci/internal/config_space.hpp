#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/state.hpp>
#include <outboard/pci/internal/config_rules.hpp>
#include <outboard/pci/register.hpp>

namespace outboard::pci {

/// The identity and kind of a function.
struct FunctionIdentity {
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  std::uint16_t subsystem_vendor = 0;
  std::uint16_t subsystem = 0;
  std::uint32_t class_code = 0;  ///< 24 bits: base class, subclass, interface
  std::uint8_t revision = 0;
  bool express = true;           ///< has a PCI Express capability and 4096 bytes of configuration space
  bool no_soft_reset = false;    ///< the transition from D3hot to D0 does not reset the function
};

/// Configuration space of an emulated function, as data: for each byte its value, which bits a write changes and which
/// bits writing a one clears, and a handler for the few registers that act. Reads beyond what is described return 0;
/// writes to read-only bits are dropped. Any width and alignment.
///
/// The registers of the specifications (PCI Local Bus 3.0 chapter 6, PCI Express Base) behave by config_rules(), policy
/// `emulated`; this class adds which of them this function has, and their values. Rows describe the device's own registers. One
/// thread.
class ConfigSpace {
 public:
  /// One row of a register table.
  struct Row {
    std::uint16_t offset = 0;  ///< from the start of configuration space, or of the capability
    std::uint8_t width = 1;  ///< 1, 2 or 4 bytes
    std::uint32_t value = 0;  ///< at power-on
    std::uint32_t writable = 0;  ///< writable bits
    std::uint32_t write_one_clears = 0;
    std::uint32_t sticky = 0;  ///< bits that reset() keeps (AER status, for one)
  };
  /// A register of a capability that config_rules() knows: its value at power-on, and which of its writable or clearable bits
  /// this function has.
  struct Present {
    std::uint16_t offset = 0;
    std::uint8_t width = 1;
    std::uint32_t value = 0;
    std::uint32_t bits = UINT32_MAX;
  };
  struct BaseAddressSpec {
    std::uint64_t size = 0;  ///< power of two, 16 at least
    bool is_64bit = false;  ///< occupies the next register too
    bool prefetchable = false;
  };
  /// Called after a write has changed the bits, with the old and the new value of the whole register.
  using Handler = std::move_only_function<void(std::uint32_t old_value, std::uint32_t new_value)>;

  explicit ConfigSpace(const FunctionIdentity& identity);

  std::size_t size() const { return bytes_.size(); }

  /// Defines a register, or redefines it. The part outside of configuration space is ignored.
  void add(const Row& row);
  /// A memory BAR: sized by writing ones. `index` and, for 64 bits, the one behind it exist. Turns Command.memory_space on.
  void add_base_address(unsigned index, const BaseAddressSpec& spec);
  /// An expansion ROM of `size` bytes, a power of two from 2 KiB on.
  void add_expansion_rom(std::uint32_t size);
  /// Appends a capability that config_rules() knows; registers that `present` does not name read as 0 and are not writable.
  /// Errors as below.
  Result<ConfigOffset> add_known(ConfigStructure structure, std::uint16_t length, std::span<const Present> present,
                                 std::uint8_t version = 1);
  /// Appends a capability (of `length` bytes with its 2-byte header) to the list; rows are relative to it. Dword-aligned.
  /// ENOSPC: the first 256 bytes are full. EINVAL: shorter than its header, or a row exceeds it.
  Result<ConfigOffset> add_capability(std::uint8_t id, std::uint16_t length, std::span<const Row> rows);
  /// The same from 0x100 on, with a header of 4 bytes. ENOSPC also without extended configuration space.
  Result<ConfigOffset> add_extended_capability(std::uint16_t id, std::uint8_t version, std::uint16_t length,
                                               std::span<const Row> rows);
  /// Sets the handler of a register, which is called for a write to any byte of it. It may call get, set and reset. Handlers
  /// run in the order in which they were set, after the write has changed all bits.
  void on_write(ConfigOffset offset, std::uint8_t width, Handler handler);
  /// Sets a handler that is called before a read of any byte of the register, to update its value.
  void on_read(ConfigOffset offset, std::uint8_t width, std::move_only_function<void()> handler);

  /// Any range; outside of configuration space reads return 0 and writes are dropped.
  void read(std::uint64_t offset, MutableBytes into);
  void write(std::uint64_t offset, Bytes from);

  /// The device's own view: no masks, no handlers. 1, 2 or 4 bytes wide.
  std::uint32_t get(ConfigOffset offset, std::uint8_t width) const;
  void set(ConfigOffset offset, std::uint8_t width, std::uint32_t value);

  /// The same for a register type: `config.get<Command>()`, `config.get_at<MsixControl>(capability + 2)`.
  template <typename R>
  R get() const {
    return get_at<R>(R::offset);
  }
  template <typename R>
  R get_at(ConfigOffset at) const {
    return R(static_cast<typename R::value_type>(get(at, sizeof(typename R::value_type))));
  }
  template <typename R>
  void set_at(ConfigOffset at, R value) {
    set(at, sizeof(typename R::value_type), value.value());
  }

  /// Returns to the power-on values, except sticky bits. Calls no handler.
  void reset();

  /// Section "CONF", version 1: the current bytes. Registers with a read handler are saved by the class that set the handler.
  void save(StateWriter& writer) const;
  /// The bytes in the next section of `from`, if they can be those of this function. EINVAL: another size, or a bit that no
  /// driver can change is different. ENOTSUP: as StateReader::section(). They are the reader's.
  Result<Bytes> check_saved(StateReader& from) const;
  /// Takes what check_saved() has returned. Calls no handler.
  void restore(Bytes saved);

 private:
  struct Hook {
    std::uint64_t offset;
    std::uint8_t width;
    Handler write;
    std::move_only_function<void()> read;

    bool touched_by(std::uint64_t at, std::size_t length) const { return offset < at + length && at < offset + width; }
  };
  using Plane = std::vector<std::byte>;

  void add_header(const FunctionIdentity& identity);
  void allow_in_command(std::uint16_t bits);
  void store(Plane& plane, std::uint64_t offset, std::uint8_t width, std::uint32_t value);
  static bool rows_fit(std::span<const Row> rows, std::uint16_t length, std::uint16_t header);
  void add_rows(ConfigOffset at, std::span<const Row> rows);
  void set_power_on(ConfigOffset at, std::uint8_t width, std::uint32_t value);

  // Byte by byte: the value now, the one at power-on, and what the bits of a write do.
  Plane bytes_, power_on_, writable_, write_one_clears_, sticky_;
  std::vector<Hook> hooks_;
  std::uint16_t next_capability_ = config_size::header;
  std::uint16_t next_extended_ = config_size::conventional;
  ConfigOffset last_link_;  ///< the pointer that will refer to the next capability
  std::optional<ConfigOffset> last_extended_;
};

}  // namespace outboard::pci
