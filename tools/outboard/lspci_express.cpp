#include <array>

#include <fmt/format.h>

#include <outboard/pci/registers.hpp>
#include <tools/outboard/lspci_text.hpp>

/// The PCI Express capability: PCI Express Base, "PCI Express Capability Structure". Endpoints only; of what has a link
/// below it, only the kind is named.
namespace outboard::command {

namespace {

constexpr unsigned endpoint = 0, legacy_endpoint = 1, integrated_endpoint = 9;

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

constexpr unsigned bits(std::uint32_t value, unsigned low, unsigned count) {
  return value >> low & ((1u << count) - 1);
}

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

std::string device_registers(const ConfigImage& image, std::size_t at, unsigned kind) {
  static constexpr std::array scales{1.0, 0.1, 0.01, 0.001};
  const std::uint32_t capabilities = image.at<pci::DeviceCapabilities>(at).value();
  const std::uint32_t control = image.at<pci::DeviceControl>(at).value();
  const bool linked = kind == endpoint || kind == legacy_endpoint;
  std::string text = fmt::format("\t\tDevCap:\tMaxPayload {} bytes, PhantFunc {}", payload(bits(capabilities, 0, 3)),
                                 (1u << bits(capabilities, 3, 2)) - 1);
  if (linked)
    text += fmt::format(", Latency L0s {}, L1 {}", l0s_latency(bits(capabilities, 6, 3)),
                        l1_latency(bits(capabilities, 9, 3)));
  text += "\n\t\t\t" + lspci_flags(capabilities, {{"ExtTag", 5}});
  if (linked) text += " " + lspci_flags(capabilities, {{"AttnBtn", 12}, {"AttnInd", 13}, {"PwrInd", 14}});
  text += " " + lspci_flags(capabilities, {{"RBE", 15}});
  if (linked || kind == integrated_endpoint) text += " " + lspci_flags(capabilities, {{"FLReset", 28}});
  if (kind == endpoint)
    text += fmt::format(" SlotPowerLimit {:g}W", bits(capabilities, 18, 8) * scales[bits(capabilities, 26, 2)]);
  text += "\n\t\tDevCtl:\t" +
          lspci_flags(control, {{"CorrErr", 0}, {"NonFatalErr", 1}, {"FatalErr", 2}, {"UnsupReq", 3}}) + "\n\t\t\t" +
          lspci_flags(control, {{"RlxdOrd", 4}, {"ExtTag", 8}, {"PhantFunc", 9}, {"AuxPwr", 10}, {"NoSnoop", 11}});
  if (bits(capabilities, 28, 1) != 0) text += " " + lspci_flags(control, {{"FLReset", 15}});
  text += fmt::format("\n\t\t\tMaxPayload {} bytes, MaxReadReq {} bytes\n", payload(bits(control, 5, 3)),
                      payload(bits(control, 12, 3)));
  return text + "\t\tDevSta:\t" +
         lspci_flags(
             image.at<pci::DeviceStatus>(at).value(),
             {{"CorrErr", 0}, {"NonFatalErr", 1}, {"FatalErr", 2}, {"UnsupReq", 3}, {"AuxPwr", 4}, {"TransPend", 5}}) +
         "\n";
}

std::string link_capabilities(std::uint32_t link) {
  static constexpr std::array<std::string_view, 4> aspm{"not supported", "L0s", "L1", "L0s L1"};
  const unsigned support = bits(link, 10, 2);
  std::string text = fmt::format("\t\tLnkCap:\tPort #{}, Speed {}, Width x{}, ASPM {}", link >> 24,
                                 speed(bits(link, 0, 4)), bits(link, 4, 6), aspm[support]);
  if (support != 0) text += ", Exit Latency";
  if ((support & 1) != 0) text += fmt::format(" L0s {}", l0s_latency(bits(link, 12, 3)));
  if ((support & 2) != 0) text += fmt::format("{} L1 {}", support == 3 ? "," : "", l1_latency(bits(link, 15, 3)));
  return text + "\n\t\t\t" +
         lspci_flags(link, {{"ClockPM", 18}, {"Surprise", 19}, {"LLActRep", 20}, {"BwNot", 21}, {"ASPMOptComp", 22}}) +
         "\n";
}

std::string link_control(std::uint32_t control) {
  static constexpr std::array<std::string_view, 4> aspm{"Disabled", "L0s Enabled", "L1 Enabled", "L0s L1 Enabled"};
  return fmt::format("\t\tLnkCtl:\tASPM {}; RCB {} bytes, ", aspm[bits(control, 0, 2)],
                     bits(control, 3, 1) != 0 ? 128 : 64) +
         lspci_flags(control, {{"Disabled", 4}, {"CommClk", 6}}) + "\n\t\t\t" +
         lspci_flags(control, {{"ExtSynch", 7}, {"ClockPM", 8}, {"AutWidDis", 9}, {"BWInt", 10}, {"AutBWInt", 11}}) +
         "\n";
}

std::string_view compared(unsigned now, unsigned possible) {
  return now == possible || now == 0 ? "" : now < possible ? " (downgraded)" : " (overdriven)";
}

std::string link_status(std::uint32_t capabilities, std::uint32_t status) {
  return fmt::format("\t\tLnkSta:\tSpeed {}{}, Width x{}{}\n\t\t\t", speed(bits(status, 0, 4)),
                     compared(bits(status, 0, 4), bits(capabilities, 0, 4)), bits(status, 4, 6),
                     compared(bits(status, 4, 6), bits(capabilities, 4, 6))) +
         lspci_flags(
             status,
             {{"TrErr", 10}, {"Train", 11}, {"SlotClk", 12}, {"DLActive", 13}, {"BWMgmt", 14}, {"ABWMgmt", 15}}) +
         "\n";
}

bool has_memory_bar(const ConfigImage& image) {
  using pci::BaseAddress;
  for (unsigned index = 0; index < BaseAddress::count; ++index) {
    const BaseAddress bar(image.number<std::uint32_t>(pci::raw(BaseAddress::offset_of(index))));
    if (bar.get(BaseAddress::io_space) == 0 && (bar.value() != 0 || image.region_size(index) != 0)) return true;
  }
  return false;
}

std::string device_capabilities_2(const ConfigImage& image, std::uint32_t value, unsigned kind) {
  static constexpr std::array<std::string_view, 16> ranges{
      "Not Supported", "Range A", "Range B", "Range AB", "Unknown", "Unknown", "Range BC",  "Range ABC",
      "Unknown",       "Unknown", "Unknown", "Unknown",  "Unknown", "Unknown", "Range BCD", "Range ABCD"};
  static constexpr std::array<std::string_view, 4> obff{"Not Supported", "Via message", "Via WAKE#",
                                                        "Via message/WAKE#"};
  static constexpr std::array<std::string_view, 4> reduction{"Not Supported", "Form Factor Dev Specific",
                                                             "Form Factor Dev Specific", "Reserved"};
  std::string text = fmt::format("\t\tDevCap2: Completion Timeout: {}, ", ranges[bits(value, 0, 4)]) +
                     lspci_flags(value, {{"TimeoutDis", 4}, {"NROPrPrP", 10}, {"LTR", 11}}) + "\n\t\t\t " +
                     lspci_flags(value, {{"10BitTagComp", 16}, {"10BitTagReq", 17}}) +
                     fmt::format(" OBFF {}, ", obff[bits(value, 18, 2)]) +
                     lspci_flags(value, {{"ExtFmt", 20}, {"EETLPPrefix", 21}});
  if (bits(value, 21, 1) != 0)
    text += fmt::format(", MaxEETLPPrefixes {}", bits(value, 22, 2) != 0 ? bits(value, 22, 2) : 4);
  text += fmt::format("\n\t\t\t EmergencyPowerReduction {}, ", reduction[bits(value, 24, 2)]) +
          lspci_flags(value, {{"EmergencyPowerReductionInit", 26}}) + "\n\t\t\t " + lspci_flags(value, {{"FRS", 31}});
  if (kind == endpoint || kind == legacy_endpoint)
    text += " " + lspci_flags(value, {{"TPHComp", 12}, {"ExtTPHComp", 13}});
  text += "\n";
  if (has_memory_bar(image))
    text += "\t\t\t AtomicOpsCap: " + lspci_flags(value, {{"32bit", 7}, {"64bit", 8}, {"128bitCAS", 9}}) + "\n";
  return text;
}

std::string device_control_2(std::uint32_t value) {
  static constexpr std::array<std::string_view, 16> timeouts{
      "50us to 50ms",  "50us to 100us", "1ms to 10ms", "Unknown",        "Unknown",    "16ms to 55ms",
      "65ms to 210ms", "Unknown",       "Unknown",     "260ms to 900ms", "1s to 3.5s", "Unknown",
      "Unknown",       "4s to 13s",     "17s to 64s",  "Unknown"};
  static constexpr std::array<std::string_view, 4> obff{"Disabled", "Via message A", "Via message B", "Via WAKE#"};
  return fmt::format("\t\tDevCtl2: Completion Timeout: {}, ", timeouts[bits(value, 0, 4)]) +
         lspci_flags(value, {{"TimeoutDis", 4}, {"LTR", 10}, {"10BitTagReq", 12}}) +
         fmt::format(" OBFF {},\n\t\t\t AtomicOpsCtl: ", obff[bits(value, 13, 2)]) +
         lspci_flags(value, {{"ReqEn", 6}}) + "\n";
}

std::string link_registers_2(std::uint32_t capabilities, std::uint32_t control, std::uint32_t status) {
  static constexpr std::array<std::string_view, 8> fastest{"RsvdP",      "2.5GT/s",    "2.5-5GT/s",  "2.5-8GT/s",
                                                           "2.5-16GT/s", "2.5-32GT/s", "2.5-64GT/s", "RsvdP"};
  static constexpr std::array<std::string_view, 4> crosslink{"unsupported", "Downstream Port", "Upstream Port",
                                                             "incomplete"};
  std::string text;
  if (const unsigned speeds = bits(capabilities, 1, 7); speeds != 0)
    text += fmt::format("\t\tLnkCap2: Supported Link Speeds: {}, ", fastest[std::bit_width(speeds)]) +
            lspci_flags(capabilities, {{"Crosslink", 8}, {"Retimer", 23}, {"2Retimers", 24}, {"DRS", 31}}) + "\n";
  const unsigned target = bits(control, 0, 4);
  // A target speed that was never set stands for the lowest.
  text +=
      fmt::format("\t\tLnkCtl2: Target Link Speed: {}, ", target > 6 ? "Unknown" : speed(target == 0 ? 1 : target)) +
      lspci_flags(control, {{"EnterCompliance", 4}, {"SpeedDis", 5}}) + "\n" +
      fmt::format("\t\t\t Transmit Margin: {}, ", bits(control, 7, 3) == 0 ? "Normal Operating Range" : "Unknown") +
      lspci_flags(control, {{"EnterModifiedCompliance", 10}, {"ComplianceSOS", 11}}) + "\n" +
      fmt::format("\t\t\t Compliance Preset/De-emphasis: {}\n",
                  bits(control, 12, 4) == 0 ? "-6dB de-emphasis, 0dB preshoot" : "Unknown");
  return text +
         fmt::format("\t\tLnkSta2: Current De-emphasis Level: {}, ", bits(status, 0, 1) != 0 ? "-3.5dB" : "-6dB") +
         lspci_flags(status, {{"EqualizationComplete", 1}, {"EqualizationPhase1", 2}}) + "\n\t\t\t " +
         lspci_flags(status, {{"EqualizationPhase2", 3}, {"EqualizationPhase3", 4}, {"LinkEqualizationRequest", 5}}) +
         "\n\t\t\t " + lspci_flags(status, {{"Retimer", 6}, {"2Retimers", 7}}) +
         fmt::format(" CrosslinkRes: {}\n", crosslink[bits(status, 8, 2)]);
}

}  // namespace

std::string lspci_express(const ConfigImage& image, std::size_t at) {
  static constexpr std::size_t link_status_2 = 0x32;
  const pci::ExpressCapabilities header = image.at<pci::ExpressCapabilities>(at);
  const unsigned kind = header.get(pci::ExpressCapabilities::device_port_type);
  const unsigned version = header.get(pci::ExpressCapabilities::version);
  const bool linked = kind == endpoint || kind == legacy_endpoint;
  std::string text = fmt::format("Express (v{}) {}, MSI {:02x}\n", version, kinds[kind],
                                 header.get(pci::ExpressCapabilities::interrupt_message_number));
  if (!linked && kind != integrated_endpoint) return text;
  text += device_registers(image, at, kind);
  if (linked) {
    const std::uint32_t link = image.at<pci::LinkCapabilities>(at).value();
    text += link_capabilities(link) + link_control(image.at<pci::LinkControl>(at).value()) +
            link_status(link, image.at<pci::LinkStatus>(at).value());
  }
  if (version < 2) return text;
  text += device_capabilities_2(image, image.at<pci::DeviceCapabilities2>(at).value(), kind) +
          device_control_2(image.at<pci::DeviceControl2>(at).value());
  if (linked)
    text += link_registers_2(image.at<pci::LinkCapabilities2>(at).value(), image.at<pci::LinkControl2>(at).value(),
                             image.number<std::uint16_t>(at + link_status_2));
  return text;
}

}  // namespace outboard::command
