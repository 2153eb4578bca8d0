#pragma once

#include <cstdint>

#include <outboard/pci/register.hpp>

/// The registers of PCI Express: its capability, version 2, and Advanced Error Reporting. Read them as those of
/// registers.hpp.
namespace outboard::pci {

struct ExpressCapabilities : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x02;
  static constexpr std::uint16_t capability_length = 0x3C;
  /// Where the registers of a slot begin; a function without one may end before them.
  static constexpr std::uint16_t slot_in_capability = 0x14, slot_2_in_capability = 0x34;

  static constexpr Field<0, 3> version{};
  static constexpr Field<4, 7> device_port_type{};
  static constexpr Field<9, 13> interrupt_message_number{};
  static constexpr std::uint16_t endpoint = 0, legacy_endpoint = 1, root_complex_integrated_endpoint = 9;
};

struct DeviceCapabilities : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x04;

  static constexpr Field<0, 2> max_payload_size_supported{};
  static constexpr Field<3, 4> phantom_functions_supported{};
  static constexpr Flag<5> extended_tag_field_supported{"ExtTag"};
  static constexpr Field<6, 8> endpoint_l0s_acceptable_latency{};
  static constexpr Field<9, 11> endpoint_l1_acceptable_latency{};
  // 12..14: of before PCI Express 1.1
  static constexpr Flag<12> attention_button_present{"AttnBtn"};
  static constexpr Flag<13> attention_indicator_present{"AttnInd"};
  static constexpr Flag<14> power_indicator_present{"PwrInd"};
  static constexpr Flag<15> role_based_error_reporting{"RBE"};
  static constexpr Field<18, 25> captured_slot_power_limit_value{};
  static constexpr Field<26, 27> captured_slot_power_limit_scale{};
  static constexpr Flag<28> function_level_reset{"FLReset"};
};

struct DeviceControl : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x08;

  static constexpr Flag<0> correctable_error_reporting{"CorrErr"};
  static constexpr Flag<1> non_fatal_error_reporting{"NonFatalErr"};
  static constexpr Flag<2> fatal_error_reporting{"FatalErr"};
  static constexpr Flag<3> unsupported_request_reporting{"UnsupReq"};
  static constexpr Flag<4> relaxed_ordering{"RlxdOrd"};
  static constexpr Field<5, 7> max_payload_size{};
  static constexpr Flag<8> extended_tag_field{"ExtTag"};
  static constexpr Flag<9> phantom_functions{"PhantFunc"};
  static constexpr Flag<10> aux_power_pm{"AuxPwr"};
  static constexpr Flag<11> no_snoop{"NoSnoop"};
  static constexpr Field<12, 14> max_read_request_size{};
  static constexpr Flag<15> initiate_function_level_reset{"FLReset"};  ///< reads as 0
};

struct DeviceStatus : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x0A;

  static constexpr Flag<0> correctable_error{"CorrErr"};
  static constexpr Flag<1> non_fatal_error{"NonFatalErr"};
  static constexpr Flag<2> fatal_error{"FatalErr"};
  static constexpr Flag<3> unsupported_request{"UnsupReq"};
  static constexpr Flag<4> aux_power{"AuxPwr"};
  static constexpr Flag<5> transactions_pending{"TransPend"};
  static constexpr std::uint16_t write_one_clears =
      mask_of(correctable_error, non_fatal_error, fatal_error, unsupported_request);
};

struct LinkCapabilities : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x0C;

  static constexpr Field<0, 3> max_link_speed{};
  static constexpr Field<4, 9> max_link_width{};
  static constexpr Field<10, 11> aspm_support{};  ///< bit 0: L0s; bit 1: L1
  static constexpr Field<12, 14> l0s_exit_latency{};
  static constexpr Field<15, 17> l1_exit_latency{};
  static constexpr Flag<18> clock_power_management{"ClockPM"};
  static constexpr Flag<19> surprise_down_error_reporting{"Surprise"};
  static constexpr Flag<20> data_link_layer_active_reporting{"LLActRep"};
  static constexpr Flag<21> link_bandwidth_notification{"BwNot"};
  static constexpr Flag<22> aspm_optionality_compliance{"ASPMOptComp"};
  static constexpr Field<24, 31> port_number{};
};

struct LinkControl : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x10;

  static constexpr Field<0, 1> aspm{};
  static constexpr Field<3> read_completion_boundary{};  ///< 0: 64 bytes; 1: 128 bytes
  static constexpr Flag<4> link_disable{"Disabled"};
  static constexpr Flag<6> common_clock{"CommClk"};
  static constexpr Flag<7> extended_synch{"ExtSynch"};
  static constexpr Flag<8> clock_power_management{"ClockPM"};
  static constexpr Flag<9> autonomous_width_disable{"AutWidDis"};
  static constexpr Flag<10> bandwidth_management_interrupt{"BWInt"};
  static constexpr Flag<11> autonomous_bandwidth_interrupt{"AutBWInt"};
};

struct LinkStatus : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x12;

  static constexpr Field<0, 3> link_speed{};
  static constexpr Field<4, 9> link_width{};
  static constexpr Flag<10> training_error{"TrErr"};  ///< of before PCI Express 1.1
  static constexpr Flag<11> link_training{"Train"};
  static constexpr Flag<12> slot_clock{"SlotClk"};
  static constexpr Flag<13> data_link_layer_active{"DLActive"};
  static constexpr Flag<14> bandwidth_management{"BWMgmt"};
  static constexpr Flag<15> autonomous_bandwidth{"ABWMgmt"};
};

struct DeviceCapabilities2 : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x24;

  static constexpr Field<0, 3> completion_timeout_ranges{};
  static constexpr Flag<4> completion_timeout_disable{"TimeoutDis"};
  static constexpr Flag<7> atomic_op_32bit_completer{"32bit"};
  static constexpr Flag<8> atomic_op_64bit_completer{"64bit"};
  static constexpr Flag<9> cas_128bit_completer{"128bitCAS"};
  static constexpr Flag<10> no_ro_enabled_pr_pr_passing{"NROPrPrP"};
  static constexpr Flag<11> latency_tolerance_reporting{"LTR"};
  static constexpr Flag<12> tph_completer{"TPHComp"};
  static constexpr Flag<13> extended_tph_completer{"ExtTPHComp"};
  static constexpr Flag<16> tag_10bit_completer{"10BitTagComp"};
  static constexpr Flag<17> tag_10bit_requester{"10BitTagReq"};
  static constexpr Field<18, 19> obff{};
  static constexpr Flag<20> extended_fmt_field{"ExtFmt"};
  static constexpr Flag<21> end_end_tlp_prefix{"EETLPPrefix"};
  static constexpr Field<22, 23> max_end_end_tlp_prefixes{};  ///< 0: four
  static constexpr Field<24, 25> emergency_power_reduction{};
  static constexpr Flag<26> emergency_power_reduction_initialization{"EmergencyPowerReductionInit"};
  static constexpr Flag<31> function_readiness_status{"FRS"};
};

struct DeviceControl2 : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x28;

  static constexpr Field<0, 3> completion_timeout_value{};
  static constexpr Flag<4> completion_timeout_disable{"TimeoutDis"};
  static constexpr Field<5> ari_forwarding{};
  static constexpr Flag<6> atomic_op_requester{"ReqEn"};
  static constexpr Flag<10> latency_tolerance_reporting{"LTR"};
  static constexpr Flag<12> tag_10bit_requester{"10BitTagReq"};
  static constexpr Field<13, 14> obff{};
};

struct LinkCapabilities2 : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x2C;

  static constexpr Field<1, 7> supported_link_speeds{};  ///< a bit for each speed
  static constexpr Flag<8> crosslink{"Crosslink"};
  static constexpr Flag<23> retimer_presence_detect{"Retimer"};
  static constexpr Flag<24> two_retimers_presence_detect{"2Retimers"};
  static constexpr Flag<31> drs{"DRS"};
};

struct LinkControl2 : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x30;

  static constexpr Field<0, 3> target_link_speed{};
  static constexpr Flag<4> enter_compliance{"EnterCompliance"};
  static constexpr Flag<5> autonomous_speed_disable{"SpeedDis"};
  static constexpr Field<7, 9> transmit_margin{};
  static constexpr Flag<10> enter_modified_compliance{"EnterModifiedCompliance"};
  static constexpr Flag<11> compliance_sos{"ComplianceSOS"};
  static constexpr Field<12, 15> compliance_preset{};
};

struct LinkStatus2 : Register<std::uint16_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x32;

  static constexpr Field<0> current_de_emphasis{};  ///< 0: -6 dB; 1: -3.5 dB
  static constexpr Flag<1> equalization_complete{"EqualizationComplete"};
  static constexpr Flag<2> equalization_phase_1{"EqualizationPhase1"};
  static constexpr Flag<3> equalization_phase_2{"EqualizationPhase2"};
  static constexpr Flag<4> equalization_phase_3{"EqualizationPhase3"};
  static constexpr Flag<5> link_equalization_request{"LinkEqualizationRequest"};
  static constexpr Flag<6> retimer_present{"Retimer"};
  static constexpr Flag<7> two_retimers_present{"2Retimers"};
  static constexpr Field<8, 9> crosslink_resolution{};
};

// Advanced Error Reporting: PCI Express Base, 7.8.4. An extended capability.

struct UncorrectableErrorStatus : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x04;
  static constexpr std::uint32_t of_endpoints = 0x03FFF031;  ///< the errors that an endpoint may report
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
  static constexpr std::uint32_t of_endpoints = 0x0000F1C1;
};

struct CorrectableErrorMask : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x14;
};

struct AdvancedErrorControl : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x18;
  static constexpr std::uint16_t capability_length = 0x2C;

  static constexpr Field<6> ecrc_generation_enable{};
  static constexpr Field<8> ecrc_check_enable{};
};

/// The header of the packet that the first error was found in: four dwords.
struct HeaderLog : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x1C;
};

// Power Budgeting: PCI Express Base, 7.8.1. An extended capability.

struct PowerBudgetingSelect : Register<std::uint8_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x04;
  static constexpr std::uint16_t capability_length = 16;
};

struct PowerBudgetingData : Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint16_t in_capability = 0x08;
};

}  // namespace outboard::pci
