#pragma once

#include <cstdint>

#include <outboard/pci/register.hpp>

/// The registers of configuration space: the offset and fields of each, and lspci's names of its flags, written nowhere else.
/// Those of the type 0 header have an `offset`; those of a capability have `in_capability`, their distance from where the
/// capability lies: `config.read_at<MsixControl>(capability.offset + MsixControl::in_capability)`.
/// The PCI Express capability and Advanced Error Reporting are in express_registers.hpp.
namespace outboard::pci {

// The type 0 header: PCI Local Bus 3.0, chapter 6.

struct VendorId : Register<std::uint16_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x00};
  static constexpr std::uint16_t absent = 0xFFFF;  ///< what a read returns when no device answers
};

struct DeviceId : Register<std::uint16_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x02};
};

struct Command : Register<std::uint16_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x04};

  static constexpr Flag<0> io_space{"I/O"};
  static constexpr Flag<1> memory_space{"Mem"};
  static constexpr Flag<2> bus_master{"BusMaster"};
  // 3..5, 7, 9: hardwired to 0 for PCI Express
  static constexpr Flag<3> special_cycles{"SpecCycle"};
  static constexpr Flag<4> memory_write_and_invalidate{"MemWINV"};
  static constexpr Flag<5> vga_palette_snoop{"VGASnoop"};
  static constexpr Flag<6> parity_error_response{"ParErr"};
  static constexpr Flag<7> idsel_stepping{"Stepping"};
  static constexpr Flag<8> serr_enable{"SERR"};
  static constexpr Flag<9> fast_back_to_back{"FastB2B"};
  static constexpr Flag<10> interrupt_disable{"DisINTx"};
};

/// The Status register; `Status` alone is what a call returns.
struct StatusRegister : Register<std::uint16_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x06};

  // 0..2: reserved
  /// INTx is asserted, whether or not Command.interrupt_disable holds it back.
  static constexpr Flag<3> interrupt{"INTx"};
  static constexpr Flag<4> capabilities_list{"Cap"};
  // 5..7, 9, 10: hardwired to 0 for PCI Express
  static constexpr Flag<5> capable_of_66_mhz{"66MHz"};
  static constexpr Flag<6> user_definable{"UDF"};
  static constexpr Flag<7> fast_back_to_back{"FastB2B"};
  static constexpr Flag<8> master_data_parity_error{"ParErr"};
  static constexpr Field<9, 10> devsel_timing{};
  static constexpr Flag<11> signaled_target_abort{">TAbort"};
  static constexpr Flag<12> received_target_abort{"<TAbort"};
  static constexpr Flag<13> received_master_abort{"<MAbort"};
  static constexpr Flag<14> signaled_system_error{">SERR"};
  static constexpr Flag<15> detected_parity_error{"<PERR"};
  static constexpr std::uint16_t write_one_clears =
      mask_of(master_data_parity_error, signaled_target_abort, received_target_abort, received_master_abort,
              signaled_system_error, detected_parity_error);
};

/// Revision ID and Class Code, which share a dword.
struct ClassAndRevision : Register<std::uint32_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x08};

  static constexpr Field<0, 7> revision{};
  static constexpr Field<8, 15> interface{};
  static constexpr Field<16, 31> base_class_and_subclass{};
  static constexpr Field<8, 31> class_code{};
};

struct CacheLineSize : Register<std::uint8_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x0C};
};

struct LatencyTimer : Register<std::uint8_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x0D};
};

struct HeaderType : Register<std::uint8_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x0E};

  // 0..6: the layout of the header; 0 is the one described here
  static constexpr Field<7> multi_function{};
};

struct BuiltInSelfTest : Register<std::uint8_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x0F};
};

/// Base Address registers 0 to 5 lie at `first`, four bytes apart.
struct BaseAddress : Register<std::uint32_t> {
  using Register::Register;
  static constexpr ConfigOffset first{0x10};
  static constexpr unsigned count = 6;
  static constexpr ConfigOffset offset_of(unsigned index) { return first + static_cast<std::uint16_t>(4 * index); }

  static constexpr Field<0> io_space{};
  static constexpr Field<1, 2> type{};  ///< of a memory BAR
  static constexpr Field<3> prefetchable{};
  static constexpr std::uint32_t type_32bit = 0;
  static constexpr std::uint32_t type_64bit = 2;  ///< the next BAR register holds the upper half
  static constexpr std::uint32_t memory_flags = 0xF, io_flags = 0x3;  ///< the bits that are no address
};

struct CardbusCis : Register<std::uint32_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x28};
};

struct SubsystemVendorId : Register<std::uint16_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x2C};
};

struct SubsystemId : Register<std::uint16_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x2E};
};

struct ExpansionRomBase : Register<std::uint32_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x30};

  static constexpr Field<0> enable{};
  static constexpr std::uint32_t address_bits = 0xFFFFF800;
};

/// The registers that say where a region lies, numbered as the regions are: BARs 0 to 5 and the expansion ROM.
namespace base_register {
constexpr unsigned rom = BaseAddress::count, count = rom + 1;
constexpr ConfigOffset offset_of(unsigned index) {
  return index == rom ? ExpansionRomBase::offset : BaseAddress::offset_of(index);
}
}  // namespace base_register

struct CapabilitiesPointer : Register<std::uint8_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x34};
};

/// The target of a pointer in a capability list. Its bits 0 and 1 are reserved.
constexpr std::uint16_t capability_at(std::uint32_t pointer) { return static_cast<std::uint16_t>(pointer & ~3u); }

struct InterruptLine : Register<std::uint8_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x3C};
};

struct InterruptPin : Register<std::uint8_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x3D};

  static constexpr std::uint8_t none = 0, inta = 1, intd = 4;
};

struct MinimumGrant : Register<std::uint8_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x3E};
};

struct MaximumLatency : Register<std::uint8_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x3F};
};

/// The two bytes that every capability starts with.
struct CapabilityHeader : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x00;

  static constexpr Field<0, 7> id{};
  static constexpr Field<8, 15> next{};  ///< see capability_at
};

/// PCI Express Base: the dword that every extended capability starts with.
struct ExtendedCapabilityHeader : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x00;

  static constexpr Field<0, 15> id{};
  static constexpr Field<16, 19> version{};
  static constexpr Field<20, 31> next{};  ///< see capability_at
};

// Power management: PCI Bus Power Management Interface 1.2.

struct PowerManagementCapabilities : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x02;

  static constexpr Field<0, 2> version{};
  static constexpr Flag<3> pme_clock{"PMEClk"};
  static constexpr Flag<5> device_specific_initialization{"DSI"};
  static constexpr Field<6, 8> aux_current{};
  static constexpr Flag<9> d1_support{"D1"};
  static constexpr Flag<10> d2_support{"D2"};
  static constexpr Flag<11> pme_from_d0{"D0"};
  static constexpr Flag<12> pme_from_d1{"D1"};
  static constexpr Flag<13> pme_from_d2{"D2"};
  static constexpr Flag<14> pme_from_d3hot{"D3hot"};
  static constexpr Flag<15> pme_from_d3cold{"D3cold"};
};

/// PMCSR.
struct PowerManagementControl : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x04;
  static constexpr std::uint16_t capability_length = 8;

  static constexpr Field<0, 1> power_state{};
  static constexpr Flag<3> no_soft_reset{"NoSoftRst"};
  static constexpr Flag<8> pme_enable{"PME-Enable"};
  static constexpr Field<9, 12> data_select{};
  static constexpr Field<13, 14> data_scale{};
  static constexpr Flag<15> pme_status{"PME"};
  static constexpr std::uint16_t d0 = 0, d3hot = 3;
  static constexpr std::uint16_t extensions_in_capability = 0x06;  ///< of bridges, and Data: a byte each
};

// PCI-X: PCI-X Protocol Addendum 2.0, of a function that is no bridge.

struct PciXCommand : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x02;
  static constexpr std::uint16_t capability_length = 8, capability_length_with_ecc = 24;

  static constexpr Field<12, 13> version{};  ///< 0: without the ECC registers
};

struct PciXEccControl : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x08;
};

// Vital Product Data: PCI Local Bus 3.0, appendix I.

struct VpdAddress : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x02;
  static constexpr std::uint16_t capability_length = 8;

  static constexpr Field<0, 14> address{};  ///< of a dword; bits 0 and 1 are 0
  static constexpr Field<15>
      flag{};  ///< written 0: read, becomes 1 when the data are there; written 1: the other way round
};

struct VpdData : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x04;
};

// Advanced Features: what a conventional function has of PCI Express, in its Advanced Capabilities ECN.

struct AdvancedFeaturesCapabilities : Register<std::uint8_t> {
  using Register::Register;
  static constexpr std::uint16_t length_in_capability = 0x02;  ///< a byte that says capability_length
  static constexpr std::uint16_t in_capability = 0x03;
  static constexpr std::uint16_t capability_length = 6;

  static constexpr Field<0> transactions_pending{};
  static constexpr Field<1> function_level_reset{};
};

struct AdvancedFeaturesControl : Register<std::uint8_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x04;

  static constexpr Field<0> initiate_function_level_reset{};  ///< reads as 0
};

struct AdvancedFeaturesStatus : Register<std::uint8_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x05;

  static constexpr Field<0> transactions_pending{};
};

// MSI: PCI Local Bus 3.0, 6.8.1.

struct MsiControl : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x02;

  static constexpr Flag<0> enable{"Enable"};
  static constexpr Field<1, 3> multiple_message_capable{};  ///< log2 of the number of vectors
  static constexpr Field<4, 6> multiple_message_enable{};
  static constexpr Flag<7> address_64bit{"64bit"};
  static constexpr Flag<8> per_vector_masking{"Maskable"};
  static constexpr unsigned max_vectors = 32;
};

/// A message address is dword-aligned.
constexpr std::uint32_t message_address_bits = 0xFFFFFFFC;

/// Where the other registers of an MSI capability lie: with 32-bit addresses, and with 64-bit ones. Without per-vector
/// masking it ends behind `data`, which has 16 bits.
namespace msi32 {
constexpr std::uint16_t address = 0x04, data = 0x08, mask = 0x0C, pending = 0x10, length = 0x14, unmasked_length = 0x0A;
}
namespace msi64 {
constexpr std::uint16_t address = 0x04, upper_address = 0x08, data = 0x0C, mask = 0x10, pending = 0x14, length = 0x18,
                        unmasked_length = 0x0E;
}

// MSI-X: PCI Local Bus 3.0, 6.8.2.

struct MsixControl : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x02;
  static constexpr std::uint16_t capability_length = 12;

  static constexpr Field<0, 10> table_size{};  ///< number of vectors, less one
  static constexpr Flag<14> function_mask{"Masked"};
  static constexpr Flag<15> enable{"Enable"};
  static constexpr unsigned max_vectors = 2048;
};

struct MsixTable : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x04;

  static constexpr Field<0, 2> bar{};
  static constexpr std::uint32_t offset_mask = 0xFFFFFFF8;
};

struct MsixPendingBits : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x08;

  static constexpr Field<0, 2> bar{};
  static constexpr std::uint32_t offset_mask = 0xFFFFFFF8;
};

/// One entry of the MSI-X table, in a BAR.
namespace msix_entry {
constexpr std::uint32_t address = 0x0, upper_address = 0x4, data = 0x8, vector_control = 0xC, size = 0x10;
}

struct MsixVectorControl : Register<std::uint32_t> {
  using Register::Register;

  static constexpr Field<0> mask{};
};

}  // namespace outboard::pci
