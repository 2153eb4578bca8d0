#include <array>

#include <fmt/format.h>

#include <outboard/pci/express_registers.hpp>
#include <outboard/pci/registers.hpp>
#include <tools/outboard/lspci/text.hpp>

/// The PCI Express capability: PCI Express Base, "PCI Express Capability Structure". Endpoints only; of what has a link
/// below it, only the kind is named.
namespace outboard::command {

namespace {

using Express = pci::ExpressCapabilities;

/// Of what kind the function is, by device_port_type.
constexpr std::array<std::string_view, 16> kinds{"Endpoint",
                                                 "Legacy Endpoint",
                                                 "Unknown type 2",
                                                 "Unknown type 3",
                                                 "Root Port",
                                                 "Upstream Port",
                                                 "Downstream Port",
                                                 "PCI-Express to PCI/PCI-X Bridge",
                                                 "PCI/PCI-X to PCI-Express Bridge",
                                                 "Root Complex Integrated Endpoint",
                                                 "Root Complex Event Collector",
                                                 "Unknown type 11",
                                                 "Unknown type 12",
                                                 "Unknown type 13",
                                                 "Unknown type 14",
                                                 "Unknown type 15"};

bool has_link(unsigned kind) { return kind == Express::endpoint || kind == Express::legacy_endpoint; }

unsigned payload(unsigned code) { return 128u << code; }

std::string speed(unsigned code) {
  static constexpr std::array<std::string_view, 7> speeds{"unknown", "2.5GT/s", "5GT/s", "8GT/s",
                                                          "16GT/s",  "32GT/s",  "64GT/s"};
  return std::string(code < speeds.size() ? speeds[code] : speeds[0]);
}

std::string_view l0s_latency(unsigned code) {
  static constexpr std::array<std::string_view, 8> values{"<64ns", "<128ns", "<256ns", "<512ns",
                                                          "<1us",  "<2us",   "<4us",   "unlimited"};
  return values[code];
}

std::string_view l1_latency(unsigned code) {
  static constexpr std::array<std::string_view, 8> values{"<1us",  "<2us",  "<4us",  "<8us",
                                                          "<16us", "<32us", "<64us", "unlimited"};
  return values[code];
}

std::string device_capabilities(pci::DeviceCapabilities from, unsigned kind) {
  using C = pci::DeviceCapabilities;
  static constexpr std::array scales{1.0, 0.1, 0.01, 0.001};
  const bool linked = has_link(kind);
  std::string text =
      fmt::format("\t\tDevCap:\tMaxPayload {} bytes, PhantFunc {}", payload(from.get(C::max_payload_size_supported)),
                  (1u << from.get(C::phantom_functions_supported)) - 1);
  if (linked)
    text += fmt::format(", Latency L0s {}, L1 {}", l0s_latency(from.get(C::endpoint_l0s_acceptable_latency)),
                        l1_latency(from.get(C::endpoint_l1_acceptable_latency)));
  text += "\n\t\t\t" + lspci_flags(from, C::extended_tag_field_supported);
  if (linked)
    text += " " +
            lspci_flags(from, C::attention_button_present, C::attention_indicator_present, C::power_indicator_present);
  text += " " + lspci_flags(from, C::role_based_error_reporting);
  if (linked || kind == Express::root_complex_integrated_endpoint)
    text += " " + lspci_flags(from, C::function_level_reset);
  if (kind == Express::endpoint)
    text += fmt::format(" SlotPowerLimit {:g}W", from.get(C::captured_slot_power_limit_value) *
                                                     scales[from.get(C::captured_slot_power_limit_scale)]);
  return text + "\n";
}

std::string device_control(pci::DeviceControl from, bool resets) {
  using C = pci::DeviceControl;
  std::string text =
      "\t\tDevCtl:\t" +
      lspci_flags(from, C::correctable_error_reporting, C::non_fatal_error_reporting, C::fatal_error_reporting,
                  C::unsupported_request_reporting) +
      "\n\t\t\t" +
      lspci_flags(from, C::relaxed_ordering, C::extended_tag_field, C::phantom_functions, C::aux_power_pm, C::no_snoop);
  if (resets) text += " " + lspci_flags(from, C::initiate_function_level_reset);
  return text + fmt::format("\n\t\t\tMaxPayload {} bytes, MaxReadReq {} bytes\n",
                            payload(from.get(C::max_payload_size)), payload(from.get(C::max_read_request_size)));
}

std::string device_status(pci::DeviceStatus from) {
  using S = pci::DeviceStatus;
  return "\t\tDevSta:\t" +
         lspci_flags(from, S::correctable_error, S::non_fatal_error, S::fatal_error, S::unsupported_request,
                     S::aux_power, S::transactions_pending) +
         "\n";
}

std::string link_capabilities(pci::LinkCapabilities from) {
  using C = pci::LinkCapabilities;
  static constexpr std::array<std::string_view, 4> aspm{"not supported", "L0s", "L1", "L0s L1"};
  const unsigned support = from.get(C::aspm_support);
  std::string text = fmt::format("\t\tLnkCap:\tPort #{}, Speed {}, Width x{}, ASPM {}", from.get(C::port_number),
                                 speed(from.get(C::max_link_speed)), from.get(C::max_link_width), aspm[support]);
  if (support != 0) text += ", Exit Latency";
  if ((support & 1) != 0) text += fmt::format(" L0s {}", l0s_latency(from.get(C::l0s_exit_latency)));
  if ((support & 2) != 0)
    text += fmt::format("{} L1 {}", support == 3 ? "," : "", l1_latency(from.get(C::l1_exit_latency)));
  return text + "\n\t\t\t" +
         lspci_flags(from, C::clock_power_management, C::surprise_down_error_reporting,
                     C::data_link_layer_active_reporting, C::link_bandwidth_notification,
                     C::aspm_optionality_compliance) +
         "\n";
}

std::string link_control(pci::LinkControl from) {
  using C = pci::LinkControl;
  static constexpr std::array<std::string_view, 4> aspm{"Disabled", "L0s Enabled", "L1 Enabled", "L0s L1 Enabled"};
  return fmt::format("\t\tLnkCtl:\tASPM {}; RCB {} bytes, ", aspm[from.get(C::aspm)],
                     from.get(C::read_completion_boundary) != 0 ? 128 : 64) +
         lspci_flags(from, C::link_disable, C::common_clock) + "\n\t\t\t" +
         lspci_flags(from, C::extended_synch, C::clock_power_management, C::autonomous_width_disable,
                     C::bandwidth_management_interrupt, C::autonomous_bandwidth_interrupt) +
         "\n";
}

std::string_view compared(unsigned now, unsigned possible) {
  return now == possible || now == 0 ? "" : now < possible ? " (downgraded)" : " (overdriven)";
}

std::string link_status(pci::LinkCapabilities possible, pci::LinkStatus now) {
  using C = pci::LinkCapabilities;
  using S = pci::LinkStatus;
  return fmt::format("\t\tLnkSta:\tSpeed {}{}, Width x{}{}\n\t\t\t", speed(now.get(S::link_speed)),
                     compared(now.get(S::link_speed), possible.get(C::max_link_speed)), now.get(S::link_width),
                     compared(now.get(S::link_width), possible.get(C::max_link_width))) +
         lspci_flags(now, S::training_error, S::link_training, S::slot_clock, S::data_link_layer_active,
                     S::bandwidth_management, S::autonomous_bandwidth) +
         "\n";
}

bool has_memory_bar(const ConfigImage& image) {
  using pci::BaseAddress;
  for (unsigned index = 0; index < BaseAddress::count; ++index) {
    const BaseAddress bar = image.base_address(index);
    if (bar.get(BaseAddress::io_space) == 0 && (bar.value() != 0 || image.region_size(index) != 0)) return true;
  }
  return false;
}

std::string device_capabilities_2(const ConfigImage& image, pci::DeviceCapabilities2 from, unsigned kind) {
  using C = pci::DeviceCapabilities2;
  static constexpr std::array<std::string_view, 16> ranges{
      "Not Supported", "Range A", "Range B", "Range AB", "Unknown", "Unknown", "Range BC",  "Range ABC",
      "Unknown",       "Unknown", "Unknown", "Unknown",  "Unknown", "Unknown", "Range BCD", "Range ABCD"};
  static constexpr std::array<std::string_view, 4> obff{"Not Supported", "Via message", "Via WAKE#",
                                                        "Via message/WAKE#"};
  static constexpr std::array<std::string_view, 4> reduction{"Not Supported", "Form Factor Dev Specific",
                                                             "Form Factor Dev Specific", "Reserved"};
  std::string text =
      fmt::format("\t\tDevCap2: Completion Timeout: {}, ", ranges[from.get(C::completion_timeout_ranges)]) +
      lspci_flags(from, C::completion_timeout_disable, C::no_ro_enabled_pr_pr_passing, C::latency_tolerance_reporting) +
      "\n\t\t\t " + lspci_flags(from, C::tag_10bit_completer, C::tag_10bit_requester) +
      fmt::format(" OBFF {}, ", obff[from.get(C::obff)]) +
      lspci_flags(from, C::extended_fmt_field, C::end_end_tlp_prefix);
  if (from.get(C::end_end_tlp_prefix) != 0) {
    const unsigned prefixes = from.get(C::max_end_end_tlp_prefixes);
    text += fmt::format(", MaxEETLPPrefixes {}", prefixes != 0 ? prefixes : 4);
  }
  text += fmt::format("\n\t\t\t EmergencyPowerReduction {}, ", reduction[from.get(C::emergency_power_reduction)]) +
          lspci_flags(from, C::emergency_power_reduction_initialization) + "\n\t\t\t " +
          lspci_flags(from, C::function_readiness_status);
  if (has_link(kind)) text += " " + lspci_flags(from, C::tph_completer, C::extended_tph_completer);
  text += "\n";
  if (has_memory_bar(image))
    text += "\t\t\t AtomicOpsCap: " +
            lspci_flags(from, C::atomic_op_32bit_completer, C::atomic_op_64bit_completer, C::cas_128bit_completer) +
            "\n";
  return text;
}

std::string device_control_2(pci::DeviceControl2 from) {
  using C = pci::DeviceControl2;
  static constexpr std::array<std::string_view, 16> timeouts{
      "50us to 50ms",  "50us to 100us", "1ms to 10ms", "Unknown",        "Unknown",    "16ms to 55ms",
      "65ms to 210ms", "Unknown",       "Unknown",     "260ms to 900ms", "1s to 3.5s", "Unknown",
      "Unknown",       "4s to 13s",     "17s to 64s",  "Unknown"};
  static constexpr std::array<std::string_view, 4> obff{"Disabled", "Via message A", "Via message B", "Via WAKE#"};
  return fmt::format("\t\tDevCtl2: Completion Timeout: {}, ", timeouts[from.get(C::completion_timeout_value)]) +
         lspci_flags(from, C::completion_timeout_disable, C::latency_tolerance_reporting, C::tag_10bit_requester) +
         fmt::format(" OBFF {},\n\t\t\t AtomicOpsCtl: ", obff[from.get(C::obff)]) +
         lspci_flags(from, C::atomic_op_requester) + "\n";
}

std::string link_capabilities_2(pci::LinkCapabilities2 from) {
  using C = pci::LinkCapabilities2;
  static constexpr std::array<std::string_view, 8> fastest{"RsvdP",      "2.5GT/s",    "2.5-5GT/s",  "2.5-8GT/s",
                                                           "2.5-16GT/s", "2.5-32GT/s", "2.5-64GT/s", "RsvdP"};
  const unsigned speeds = from.get(C::supported_link_speeds);
  if (speeds == 0) return {};
  return fmt::format("\t\tLnkCap2: Supported Link Speeds: {}, ", fastest[std::bit_width(speeds)]) +
         lspci_flags(from, C::crosslink, C::retimer_presence_detect, C::two_retimers_presence_detect, C::drs) + "\n";
}

std::string link_control_2(pci::LinkControl2 from) {
  using C = pci::LinkControl2;
  const unsigned target = from.get(C::target_link_speed);
  // A target speed that was never set stands for the lowest.
  return fmt::format("\t\tLnkCtl2: Target Link Speed: {}, ", target > 6 ? "Unknown" : speed(target == 0 ? 1 : target)) +
         lspci_flags(from, C::enter_compliance, C::autonomous_speed_disable) + "\n" +
         fmt::format("\t\t\t Transmit Margin: {}, ",
                     from.get(C::transmit_margin) == 0 ? "Normal Operating Range" : "Unknown") +
         lspci_flags(from, C::enter_modified_compliance, C::compliance_sos) + "\n" +
         fmt::format("\t\t\t Compliance Preset/De-emphasis: {}\n",
                     from.get(C::compliance_preset) == 0 ? "-6dB de-emphasis, 0dB preshoot" : "Unknown");
}

std::string link_status_2(pci::LinkStatus2 from) {
  using S = pci::LinkStatus2;
  static constexpr std::array<std::string_view, 4> crosslink{"unsupported", "Downstream Port", "Upstream Port",
                                                             "incomplete"};
  return fmt::format("\t\tLnkSta2: Current De-emphasis Level: {}, ",
                     from.get(S::current_de_emphasis) != 0 ? "-3.5dB" : "-6dB") +
         lspci_flags(from, S::equalization_complete, S::equalization_phase_1) + "\n\t\t\t " +
         lspci_flags(from, S::equalization_phase_2, S::equalization_phase_3, S::link_equalization_request) +
         "\n\t\t\t " + lspci_flags(from, S::retimer_present, S::two_retimers_present) +
         fmt::format(" CrosslinkRes: {}\n", crosslink[from.get(S::crosslink_resolution)]);
}

}  // namespace

std::string lspci_express(const ConfigImage& image, std::size_t at) {
  const auto header = image.at<Express>(at);
  const unsigned kind = header.get(Express::device_port_type), version = header.get(Express::version);
  const bool linked = has_link(kind);
  std::string text = fmt::format("Express (v{}) {}, MSI {:02x}\n", version, kinds[kind],
                                 header.get(Express::interrupt_message_number));
  if (!linked && kind != Express::root_complex_integrated_endpoint) return text;
  const auto capabilities = image.at<pci::DeviceCapabilities>(at);
  text += device_capabilities(capabilities, kind) +
          device_control(image.at<pci::DeviceControl>(at),
                         capabilities.get(pci::DeviceCapabilities::function_level_reset) != 0) +
          device_status(image.at<pci::DeviceStatus>(at));
  if (linked) {
    const auto link = image.at<pci::LinkCapabilities>(at);
    text += link_capabilities(link) + link_control(image.at<pci::LinkControl>(at)) +
            link_status(link, image.at<pci::LinkStatus>(at));
  }
  if (version < 2) return text;
  text += device_capabilities_2(image, image.at<pci::DeviceCapabilities2>(at), kind) +
          device_control_2(image.at<pci::DeviceControl2>(at));
  if (linked)
    text += link_capabilities_2(image.at<pci::LinkCapabilities2>(at)) +
            link_control_2(image.at<pci::LinkControl2>(at)) + link_status_2(image.at<pci::LinkStatus2>(at));
  return text;
}

}  // namespace outboard::command
