#pragma once

#include <cstdint>

#include <outboard/pci/register.hpp>

/// The registers of configuration space. Those of the type 0 header have an `offset`; those of a capability have
/// `in_capability`, their distance from where the capability lies:
/// `config.read_at<MsixControl>(capability.offset + MsixControl::in_capability)`.
namespace outboard::pci {

// The type 0 header: PCI Local Bus 3.0, chapter 6.

struct VendorId : Register<std::uint16_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x00};
  static constexpr std::uint16_t absent = 0xFFFF;  ///< what a read returns when nobody answers
};

struct DeviceId : Register<std::uint16_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x02};
};

struct Command : Register<std::uint16_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x04};

  static constexpr Field<0> io_space{};
  static constexpr Field<1> memory_space{};
  static constexpr Field<2> bus_master{};
  // 3..5: hardwired to 0 for PCI Express
  static constexpr Field<6> parity_error_response{};
  // 7: hardwired to 0
  static constexpr Field<8> serr_enable{};
  // 9: hardwired to 0
  static constexpr Field<10> interrupt_disable{};
};

/// The Status register; `Status` alone is what a call returns.
struct StatusRegister : Register<std::uint16_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x06};

  // 0..2: reserved
  static constexpr Field<3> interrupt{};  ///< INTx is asserted, whether or not Command.interrupt_disable holds it back
  static constexpr Field<4> capabilities_list{};
  // 5..7, 9, 10: hardwired to 0 for PCI Express
  static constexpr Field<8> master_data_parity_error{};  // write one to clear, as all that follow
  static constexpr Field<11> signaled_target_abort{};
  static constexpr Field<12> received_target_abort{};
  static constexpr Field<13> received_master_abort{};
  static constexpr Field<14> signaled_system_error{};
  static constexpr Field<15> detected_parity_error{};
  static constexpr std::uint16_t write_one_clears = 0xF900;
};

/// Revision ID and Class Code, which share a dword.
struct ClassAndRevision : Register<std::uint32_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x08};

  static constexpr Field<0, 7> revision{};
  static constexpr Field<8, 15> interface{};
  static constexpr Field<16, 23> subclass{};
  static constexpr Field<24, 31> base_class{};
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

  static constexpr Field<0, 6> layout{};
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
  static constexpr std::uint32_t memory_flags = 0xF;
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

struct CapabilitiesPointer : Register<std::uint8_t> {
  using Register::Register;
  static constexpr ConfigOffset offset{0x34};

  // 0, 1: reserved; mask them
  static constexpr Field<2, 7> dword{};
};

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
  static constexpr Field<8, 15> next{};  ///< bits 0 and 1 are reserved
};

/// PCI Express Base: the dword that every extended capability starts with.
struct ExtendedCapabilityHeader : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x00;

  static constexpr Field<0, 15> id{};
  static constexpr Field<16, 19> version{};
  static constexpr Field<20, 31> next{};  ///< bits 0 and 1 are reserved
};

// Power management: PCI Bus Power Management Interface 1.2.

struct PowerManagementCapabilities : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x02;

  static constexpr Field<0, 2> version{};
  static constexpr Field<3> pme_clock{};
  static constexpr Field<5> device_specific_initialization{};
  static constexpr Field<9> d1_support{};
  static constexpr Field<10> d2_support{};
  static constexpr Field<11, 15> pme_support{};
};

/// PMCSR.
struct PowerManagementControl : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x04;
  static constexpr std::uint16_t capability_length = 8;

  static constexpr Field<0, 1> power_state{};
  static constexpr Field<3> no_soft_reset{};
  static constexpr Field<8> pme_enable{};
  static constexpr Field<15> pme_status{};
  static constexpr std::uint16_t d0 = 0, d3hot = 3;
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

  static constexpr Field<0> enable{};
  static constexpr Field<1, 3> multiple_message_capable{};  ///< log2 of the number of vectors
  static constexpr Field<4, 6> multiple_message_enable{};
  static constexpr Field<7> address_64bit{};
  static constexpr Field<8> per_vector_masking{};
  static constexpr unsigned max_vectors = 32;
};

/// The layout of an MSI capability with 64-bit addresses and per-vector masking.
namespace msi64 {
constexpr std::uint16_t address = 0x04, upper_address = 0x08, data = 0x0C, mask = 0x10, pending = 0x14, length = 0x18;
}

// MSI-X: PCI Local Bus 3.0, 6.8.2.

struct MsixControl : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x02;
  static constexpr std::uint16_t capability_length = 12;

  static constexpr Field<0, 10> table_size{};  ///< number of vectors, less one
  static constexpr Field<14> function_mask{};
  static constexpr Field<15> enable{};
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

// The PCI Express capability, version 2: PCI Express Base.

struct ExpressCapabilities : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x02;
  static constexpr std::uint16_t capability_length = 0x3C;

  static constexpr Field<0, 3> version{};
  static constexpr Field<4, 7> device_port_type{};
  static constexpr Field<8> slot_implemented{};
  static constexpr Field<9, 13> interrupt_message_number{};
  static constexpr std::uint16_t endpoint = 0, root_complex_integrated_endpoint = 9;
};

struct DeviceCapabilities : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x04;

  static constexpr Field<0, 2> max_payload_size_supported{};
  static constexpr Field<3, 4> phantom_functions_supported{};
  static constexpr Field<5> extended_tag_field_supported{};
  static constexpr Field<6, 8> endpoint_l0s_acceptable_latency{};
  static constexpr Field<9, 11> endpoint_l1_acceptable_latency{};
  static constexpr Field<15> role_based_error_reporting{};
  static constexpr Field<28> function_level_reset{};
};

struct DeviceControl : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x08;

  static constexpr Field<0> correctable_error_reporting{};
  static constexpr Field<1> non_fatal_error_reporting{};
  static constexpr Field<2> fatal_error_reporting{};
  static constexpr Field<3> unsupported_request_reporting{};
  static constexpr Field<4> relaxed_ordering{};
  static constexpr Field<5, 7> max_payload_size{};
  static constexpr Field<8> extended_tag_field{};
  static constexpr Field<9> phantom_functions{};
  static constexpr Field<10> aux_power_pm{};
  static constexpr Field<11> no_snoop{};
  static constexpr Field<12, 14> max_read_request_size{};
  static constexpr Field<15> initiate_function_level_reset{};  ///< reads as 0
};

struct DeviceStatus : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x0A;

  static constexpr Field<0> correctable_error{};
  static constexpr Field<1> non_fatal_error{};
  static constexpr Field<2> fatal_error{};
  static constexpr Field<3> unsupported_request{};
  static constexpr Field<4> aux_power{};
  static constexpr Field<5> transactions_pending{};
  static constexpr std::uint16_t write_one_clears = 0x000F;
};

struct LinkCapabilities : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x0C;

  static constexpr Field<0, 3> max_link_speed{};
  static constexpr Field<4, 9> max_link_width{};
  static constexpr Field<10, 11> aspm_support{};
  static constexpr Field<24, 31> port_number{};
};

struct LinkControl : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x10;

  static constexpr Field<0, 1> aspm{};
  static constexpr Field<3> read_completion_boundary{};
  static constexpr Field<6> common_clock{};
  static constexpr Field<7> extended_synch{};
  static constexpr Field<8> clock_power_management{};
};

struct LinkStatus : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x12;

  static constexpr Field<0, 3> link_speed{};
  static constexpr Field<4, 9> link_width{};
  static constexpr Field<12> slot_clock{};
};

struct DeviceCapabilities2 : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x24;
};

struct DeviceControl2 : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x28;
};

struct LinkCapabilities2 : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x2C;

  static constexpr Field<1, 7> supported_link_speeds{};  ///< a bit for each speed
};

struct LinkControl2 : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x30;

  static constexpr Field<0, 3> target_link_speed{};
};

// Advanced Error Reporting: PCI Express Base, 7.8.4. An extended capability.

struct UncorrectableErrorStatus : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x04;
};

struct UncorrectableErrorMask : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x08;
};

struct UncorrectableErrorSeverity : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x0C;
};

struct CorrectableErrorStatus : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x10;
};

struct CorrectableErrorMask : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x14;
};

struct AdvancedErrorControl : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x18;
  static constexpr std::uint16_t capability_length = 0x2C;

  static constexpr Field<5> ecrc_generation_capable{};
  static constexpr Field<6> ecrc_generation_enable{};
  static constexpr Field<7> ecrc_check_capable{};
  static constexpr Field<8> ecrc_check_enable{};
};

}  // namespace outboard::pci
