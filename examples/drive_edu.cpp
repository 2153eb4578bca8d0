// A driver of a plain PCI function, on whatever the target is: example_drive_edu vfio:0000:00:04.0 (QEMU's -device edu, bound
// to vfio-pci), vfio-user:/run/edu.sock (`outboard serve edu`), or local:edu. Written by hand, with what pci::Handle has; the
// library's own driver is <outboard/devices/edu/driver.hpp>.

#include <poll.h>

#include <cstring>
#include <string_view>

#include <fmt/format.h>

#include <outboard/devices/edu/registers.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/pci/register_window.hpp>
#include <outboard/targets/target.hpp>

using namespace outboard;

/// Waits for the vector, which a device need not ever signal, and takes the interrupt.
Status take_interrupt(const pci::Bar& bar, pci::InterruptSet& interrupts) {
  pollfd vector{.fd = interrupts.vector(0).get(), .events = POLLIN, .revents = 0};
  if (::poll(&vector, 1, 10'000) != 1) return Error(ETIMEDOUT, "no interrupt came");
  interrupts.vector(0).drain();
  OUTBOARD_TRY(const auto status, pci::read_register<edu::InterruptStatus>(bar));
  OUTBOARD_CHECK(pci::write_register(bar, edu::InterruptAcknowledge(status.value())));
  return interrupts.unmask();  // nothing to do for MSI
}

Status drive(pci::Handle& function) {
  OUTBOARD_TRY(const auto identity, function.identity());
  if (identity.vendor != edu::spec::vendor_id || identity.device != edu::spec::device_id)
    return Error(ENODEV, "not an edu device").on(function.name());
  OUTBOARD_CHECK(function.enable_bus_master());  // DMA and MSI; and its registers
  OUTBOARD_TRY(const auto bar, function.bar(0));
  OUTBOARD_TRY(auto interrupts, function.enable_interrupts(pci::InterruptKind::msi, 1));

  // A factorial, whose end is an interrupt.
  using edu::ComputationStatus;
  OUTBOARD_CHECK(pci::write_register(bar, with(ComputationStatus(), ComputationStatus::interrupt_when_done, 1)));
  OUTBOARD_CHECK(pci::write_register(bar, edu::Factorial(12)));
  OUTBOARD_CHECK(take_interrupt(bar, interrupts));
  OUTBOARD_TRY(const auto product, pci::read_register<edu::Factorial>(bar));
  fmt::print("{}: 12! is {}\n", function.name(), product.value());

  // Memory that its 28 address bits reach, copied into the device and back to another place.
  OUTBOARD_TRY(auto memory, function.dma().allocate(128, {.highest = memory::Iova{edu::spec::default_dma_mask}}));
  constexpr std::string_view text = "there and back again";
  std::memcpy(memory.data(), text.data(), text.size());
  using edu::DmaCommand;
  const auto copy = [&](std::uint64_t from, std::uint64_t to, bool to_memory) -> Status {
    OUTBOARD_CHECK(pci::write_register(bar, edu::DmaSource(from)));
    OUTBOARD_CHECK(pci::write_register(bar, edu::DmaDestination(to)));
    OUTBOARD_CHECK(pci::write_register(bar, edu::DmaCount(text.size())));
    auto command = with(DmaCommand(), DmaCommand::start, 1);
    command = with(with(command, DmaCommand::interrupt_when_done, 1), DmaCommand::to_memory, to_memory ? 1 : 0);
    OUTBOARD_CHECK(pci::write_register(bar, command));
    return take_interrupt(bar, interrupts);
  };
  const std::uint64_t address = memory::raw(memory.iova());
  OUTBOARD_CHECK(copy(address, edu::spec::buffer_address, false));
  OUTBOARD_CHECK(copy(edu::spec::buffer_address, address + 64, true));
  fmt::print("{}: {}\n", function.name(),
             std::string_view(reinterpret_cast<const char*>(memory.data()) + 64, text.size()));
  return {};
}

int main(int argc, char** argv) {
  const std::string_view target = argc > 1 ? argv[1] : "local:edu";
  auto function = targets::open(target);
  const Status done = function ? drive(**function) : Status(function.error());
  if (done) return 0;
  fmt::print(stderr, "{}\n", done.error().message());
  if (!done.error().cure().empty()) fmt::print(stderr, "{}\n", done.error().cure());
  return 1;
}
