#pragma once

#include <cstdint>

/// Capability ids, as the PCI Code and ID Assignment Specification lists them.
namespace outboard::pci {

namespace capability_id {
constexpr std::uint8_t null = 0x00;
constexpr std::uint8_t power_management = 0x01;
constexpr std::uint8_t agp = 0x02;
constexpr std::uint8_t vital_product_data = 0x03;
constexpr std::uint8_t slot_identification = 0x04;
constexpr std::uint8_t msi = 0x05;
constexpr std::uint8_t compact_pci_hot_swap = 0x06;
constexpr std::uint8_t pci_x = 0x07;
constexpr std::uint8_t hyper_transport = 0x08;
constexpr std::uint8_t vendor_specific = 0x09;
constexpr std::uint8_t debug_port = 0x0A;
constexpr std::uint8_t compact_pci_resource_control = 0x0B;
constexpr std::uint8_t hot_plug = 0x0C;
constexpr std::uint8_t bridge_subsystem_id = 0x0D;
constexpr std::uint8_t agp_8x = 0x0E;
constexpr std::uint8_t secure_device = 0x0F;
constexpr std::uint8_t express = 0x10;
constexpr std::uint8_t msix = 0x11;
constexpr std::uint8_t sata = 0x12;
constexpr std::uint8_t advanced_features = 0x13;
constexpr std::uint8_t enhanced_allocation = 0x14;
constexpr std::uint8_t flattening_portal_bridge = 0x15;
}  // namespace capability_id

namespace extended_capability_id {
constexpr std::uint16_t null = 0x0000;
constexpr std::uint16_t advanced_error_reporting = 0x0001;
constexpr std::uint16_t virtual_channel = 0x0002;
constexpr std::uint16_t device_serial_number = 0x0003;
constexpr std::uint16_t power_budgeting = 0x0004;
constexpr std::uint16_t multi_function_virtual_channel = 0x0008;
constexpr std::uint16_t virtual_channel_with_mfvc = 0x0009;
constexpr std::uint16_t vendor_specific = 0x000B;
constexpr std::uint16_t access_control_services = 0x000D;
constexpr std::uint16_t alternative_routing_id = 0x000E;
constexpr std::uint16_t address_translation_services = 0x000F;
constexpr std::uint16_t single_root_io_virtualization = 0x0010;
constexpr std::uint16_t multicast = 0x0012;
constexpr std::uint16_t page_request_interface = 0x0013;
constexpr std::uint16_t resizable_bar = 0x0015;
constexpr std::uint16_t dynamic_power_allocation = 0x0016;
constexpr std::uint16_t tph_requester = 0x0017;
constexpr std::uint16_t latency_tolerance_reporting = 0x0018;
constexpr std::uint16_t secondary_express = 0x0019;
constexpr std::uint16_t process_address_space_id = 0x001B;
constexpr std::uint16_t downstream_port_containment = 0x001D;
constexpr std::uint16_t l1_substates = 0x001E;
constexpr std::uint16_t precision_time_measurement = 0x001F;
constexpr std::uint16_t designated_vendor_specific = 0x0023;
constexpr std::uint16_t data_link_feature = 0x0025;
constexpr std::uint16_t data_object_exchange = 0x002E;
}  // namespace extended_capability_id

}  // namespace outboard::pci
