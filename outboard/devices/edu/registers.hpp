#pragma once

#include <cstdint>

#include <outboard/pci/register.hpp>

/// The educational device of QEMU: what its registers look like, the same for the device and the driver. Facts from
/// QEMU's docs/specs/edu.rst; README.md beside this file has the notes.
///
/// `offset` is where a register lies in BAR 0. Below `wide_from` an access has 4 bytes, from there on 4 or 8.
namespace outboard::edu {

namespace spec {

constexpr std::uint16_t vendor_id = 0x1234, device_id = 0x11E8;
constexpr std::uint16_t subsystem_vendor_id = 0x1AF4, subsystem_id = 0x1100;  ///< those that QEMU gives its own devices
constexpr std::uint32_t class_code = 0x00FF00;  ///< none of those that have a name
constexpr std::uint8_t revision = 0x10;

constexpr unsigned bar = 0;
constexpr std::uint64_t bar_size = UINT64_C(1) << 20;
constexpr std::uint64_t wide_from = 0x80;
constexpr std::uint64_t registers_end = 0xA0;  ///< nothing is behind it

/// The device's own memory, at an address that only its DMA engine knows.
constexpr std::uint64_t buffer_address = 0x40000, buffer_size = 4096;
/// What the engine can address, unless it is made otherwise.
constexpr std::uint64_t default_dma_mask = (UINT64_C(1) << 28) - 1;

/// The bits of the interrupt status that the device sets itself; the others are the driver's to raise.
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

/// Holds the complement of what was written last.
struct Liveness : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x04;
};

/// A number, and its factorial (modulo 2^32) once ComputationStatus says that it is done. What is written before is dropped.
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

/// Read-only: why the interrupt was raised, until it is acknowledged.
struct InterruptStatus : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x24;
};

/// Write-only: raises the interrupt for what is written.
struct InterruptRaise : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x60;
};

/// Write-only: takes bits out of InterruptStatus. Needed with MSI, too.
struct InterruptAcknowledge : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x64;
};

// The DMA engine. One of the addresses is that of the buffer. While a transfer runs, what is written here is dropped.

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

/// What is written without `start` is dropped.
struct DmaCommand : pci::Register<std::uint64_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x98;

  static constexpr pci::Field<0> start{};  ///< reads as 1 while the transfer runs
  static constexpr pci::Field<1> to_memory{};  ///< 0: from memory into the buffer
  static constexpr pci::Field<2> interrupt_when_done{};
};

}  // namespace outboard::edu
