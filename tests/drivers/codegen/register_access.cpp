// Pairs of functions that must be the same machine code: a register of a mapped BAR by its type, and the volatile access
// that a driver would have written by hand. Compared by compare.py.

#include <cstdint>

#include <outboard/pci/register_window.hpp>

using namespace outboard;

namespace {

struct DeviceFlags : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x1C;
  static constexpr pci::Field<0> ready{};
};
struct Doorbell : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x1000;
};
struct QueueBase : pci::Register<std::uint64_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = 0x28;
};
/// Begins at the first of them.
using Registers = pci::RegisterWindow<DeviceFlags, Doorbell, QueueBase>;
constexpr std::uint64_t first = DeviceFlags::offset;

/// What stands at the start of a Window, for the function without types.
volatile std::byte* start_of(const pci::Window& window) { return window.data(); }

}  // namespace

extern "C" {

std::uint32_t typed_read32(const Registers& registers) { return registers.read<DeviceFlags>().value(); }
std::uint32_t raw_read32(const pci::Window& window) {
  return *reinterpret_cast<const volatile std::uint32_t*>(start_of(window) + (DeviceFlags::offset - first));
}

bool typed_field(const Registers& registers) { return registers.read<DeviceFlags>().get(DeviceFlags::ready) != 0; }
bool raw_field(const pci::Window& window) {
  return (*reinterpret_cast<const volatile std::uint32_t*>(start_of(window) + (DeviceFlags::offset - first)) & 1) != 0;
}

void typed_write32(const Registers& registers, std::uint32_t value) { registers.write(Doorbell(value)); }
void raw_write32(const pci::Window& window, std::uint32_t value) {
  *reinterpret_cast<volatile std::uint32_t*>(start_of(window) + (Doorbell::offset - first)) = value;
}

void typed_write64(const Registers& registers, std::uint64_t value) { registers.write(QueueBase(value)); }
void raw_write64(const pci::Window& window, std::uint64_t value) {
  *reinterpret_cast<volatile std::uint64_t*>(start_of(window) + (QueueBase::offset - first)) = value;
}

/// A doorbell after a status, in that order: neither is left out, nor are they exchanged.
void typed_sequence(const Registers& registers, std::uint32_t value) {
  while (registers.read<DeviceFlags>().get(DeviceFlags::ready) == 0) {
  }
  registers.write(Doorbell(value));
  registers.write(Doorbell(value));
}
void raw_sequence(const pci::Window& window, std::uint32_t value) {
  while ((*reinterpret_cast<const volatile std::uint32_t*>(start_of(window) + (DeviceFlags::offset - first)) & 1) ==
         0) {
  }
  *reinterpret_cast<volatile std::uint32_t*>(start_of(window) + (Doorbell::offset - first)) = value;
  *reinterpret_cast<volatile std::uint32_t*>(start_of(window) + (Doorbell::offset - first)) = value;
}

}  // extern "C"
