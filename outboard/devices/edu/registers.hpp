#pragma once

#include <cstdint>

#include <outboard/pci/register.hpp>

/// The registers of QEMU's educational device, for device and driver, from QEMU's docs/specs/edu.rst. README.md beside this
/// file explains them.
///
/// `offset` is where a register lies in BAR 0. Below `wide_from` an access has 4 bytes, from there on 4 or 8.
namespace outboard::edu {

namespace spec {

constexpr std::uint16_t vendor_id = 0x1234, device_id = 0x11E8;
constexpr std::uint16_t subsystem_vendor_id = 0x1AF4, subsystem_id = 0x1100;  ///< as for all devices of QEMU
constexpr std::uint32_t class_code = 0x00FF00;  ///< unclassified
constexpr std::uint8_t revision = 0x10;

constexpr unsigned bar = 0;
constexpr std::uint64_t bar_size = UINT64_C(1) << 20;
constexpr std::uint64_t wide_from = 0x80;
constexpr std::uint64_t registers_end = 0xA0;  ///< end of the registers

/// The memory of the device, at an address of its DMA engine.
constexpr std::uint64_t buffer_address = 0x40000, buffer_size = 4096;
/// The default of the addresses that the engine reaches.
constexpr std::uint64_t default_dma_mask = (UINT64_C(1) << 28) - 1;

/// The bits of the interrupt status that the device sets itself; a driver can raise the others.
namespace cause {
constexpr std::uint32_t factorial = 0x001, dma = 0x100;
}

}  // namespace spec

struct Identification : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x00;

  static constexpr pci::Field<0, 7> magic{};
  // 8..15: 0
  static constexpr pci::Field<16, 23> minor{};
  static constexpr pci::Field<24, 31> major{};
  static constexpr std::uint32_t magic_value = 0xED;
  static constexpr std::uint32_t version_1_0 = 0x010000ED;
};

/// Reads as the complement of the last value written.
struct Liveness : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x04;
};

/// A number, and its factorial (modulo 2^32) once ComputationStatus shows that it is done. Writes before that are dropped.
struct Factorial : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x08;
};

/// The register that the specification calls status.
struct ComputationStatus : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x20;

  static constexpr pci::Field<0> computing{};  ///< read-only
  static constexpr pci::Field<7> interrupt_when_done{};
};

/// Read-only: the causes of the interrupt, until they are acknowledged.
struct InterruptStatus : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x24;
};

/// Write-only: raises the interrupt with the written causes.
struct InterruptRaise : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x60;
};

/// Write-only: clears bits of InterruptStatus. Needed with MSI, too.
struct InterruptAcknowledge : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x64;
};

// The DMA engine. One of the addresses is that of the buffer. While a transfer runs, writes here are dropped.

struct DmaSource : pci::Register<std::uint64_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x80;
};

struct DmaDestination : pci::Register<std::uint64_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x88;
};

struct DmaCount : pci::Register<std::uint64_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x90;
};

/// A write without `start` is dropped.
struct DmaCommand : pci::Register<std::uint64_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x98;

  static constexpr pci::Field<0> start{};  ///< reads as 1 while the transfer runs
  static constexpr pci::Field<1> to_memory{};  ///< 0: from memory into the buffer
  static constexpr pci::Field<2> interrupt_when_done{};
};

}  // namespace outboard::edu
