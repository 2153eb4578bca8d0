// The educational device: its driver, and with it what DMA and interrupts do on a back end.

#include <algorithm>
#include <thread>
#include <vector>

#include <outboard/base/reactor.hpp>
#include <outboard/devices/edu/driver.hpp>
#include <outboard/pci/register_window.hpp>
#include <outboard/pci/registers.hpp>
#include <tests/drivers/back_end.hpp>

namespace outboard::drivers {
namespace {

using edu::Driver;
using Interrupts = Driver::Interrupts;

constexpr std::array modes{Interrupts::none, Interrupts::intx, Interrupts::msi};

const char* name_of_mode(Interrupts mode) {
  return mode == Interrupts::none ? "polling" : mode == Interrupts::intx ? "INTx" : "MSI";
}

std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(seed + i * 31 + i / 256);
  return bytes;
}

class Edu : public DriverTest {
 protected:
  Driver start(Interrupts mode = Interrupts::automatic) {
    auto driver = Driver::start(handle(), {.interrupts = mode});
    EXPECT_TRUE(driver) << why(driver);
    return std::move(driver).value();
  }
  /// What a driver does that does not wait: a transfer by the registers alone.
  void start_transfer(memory::Iova memory, std::uint32_t count, bool to_memory) {
    const auto bar = handle().bar(0);
    const auto outside = static_cast<std::uint32_t>(memory::raw(memory));
    const auto inside = static_cast<std::uint32_t>(edu::spec::buffer_address);
    ASSERT_TRUE(bar->write(edu::DmaSource::offset, to_memory ? inside : outside));
    ASSERT_TRUE(bar->write(edu::DmaDestination::offset, to_memory ? outside : inside));
    ASSERT_TRUE(bar->write(edu::DmaCount::offset, count));
    ASSERT_TRUE(bar->write(edu::DmaCommand::offset, to_memory ? 3U : 1U));
  }
  bool transfer_runs() { return (handle().bar(0)->read<std::uint32_t>(edu::DmaCommand::offset).value_or(0) & 1) != 0; }
};
INSTANTIATE_TEST_SUITE_P(, Edu, ::testing::ValuesIn(only(Kind::edu)), test_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Edu);

TEST_P(Edu, IsRecognisedAndAlive) {
  auto driver = start();
  EXPECT_EQ(driver.version().major, 1u);
  EXPECT_TRUE(driver.check_alive());
  EXPECT_EQ(driver.interrupt_kind(), pci::InterruptKind::msi);
}

TEST_P(Edu, ComputesFactorialsByPollingAndByInterrupt) {
  for (const auto mode : modes) {
    SCOPED_TRACE(name_of_mode(mode));
    auto driver = start(mode);
    for (const auto& [number, result] : {std::pair(0U, 1U), {5U, 120U}, {12U, 479001600U}, {40U, 0U}}) {
      const auto product = driver.factorial(number);
      ASSERT_TRUE(product) << why(product);
      EXPECT_EQ(*product, result);
    }
    EXPECT_EQ(driver.interrupts() != 0, mode != Interrupts::none);
  }
}

TEST_P(Edu, RaisesInterruptsAgainAndAgain) {
  for (const auto mode : {Interrupts::intx, Interrupts::msi}) {
    SCOPED_TRACE(name_of_mode(mode));
    auto driver = start(mode);
    for (std::uint32_t causes = 1; causes <= 100; ++causes) {
      const auto came = driver.raise_interrupt(causes);
      ASSERT_TRUE(came) << why(came);
    }
    EXPECT_GE(driver.interrupts(), 100u);
  }
}

TEST_P(Edu, AnInterruptReachesACallbackOfALoop) {
  auto driver = start(Interrupts::none);
  auto vectors = handle().enable_interrupts(pci::InterruptKind::msi, 1);
  ASSERT_TRUE(vectors) << why(vectors);
  auto reactor = Reactor::create();
  ASSERT_TRUE(reactor) << why(reactor);
  bool called = false;
  const auto watch = (*reactor)->watch_eventfd(vectors->vector(0), [&] { called = true; });
  ASSERT_TRUE(watch) << why(watch);
  ASSERT_TRUE(handle().bar(0)->write(edu::InterruptRaise::offset, 1U));
  const TimePoint end = Clock::system().now() + std::chrono::seconds(10);
  while (!called && Clock::system().now() < end) ASSERT_TRUE((*reactor)->run_once(std::chrono::seconds(1)));
  EXPECT_TRUE(called);
  EXPECT_TRUE(handle().bar(0)->write(edu::InterruptAcknowledge::offset, 1U));
}

TEST_P(Edu, MovesMemoryBothWaysAndVerifiesIt) {
  for (const auto mode : modes) {
    SCOPED_TRACE(name_of_mode(mode));
    auto driver = start(mode);
    const auto verified = driver.verify(static_cast<std::uint32_t>(mode));
    EXPECT_TRUE(verified) << why(verified);
  }
}

TEST_P(Edu, MovesPartsAndLeavesTheRest) {
  auto driver = start();
  const auto whole = pattern(4096, 1), part = pattern(100, 200);
  ASSERT_TRUE(driver.write(0, whole));
  ASSERT_TRUE(driver.write(1000, part));
  auto memory = driver.allocate(8192);
  ASSERT_TRUE(memory) << why(memory);
  std::ranges::fill(memory->bytes(), std::byte{0x5A});
  ASSERT_TRUE(driver.transfer(Driver::Direction::from_device, 1000 - 8, {memory->iova() + (4096 - 58), 116}));
  const auto expected = [&](std::size_t i) {
    if (i < 4096 - 58 || i >= 4096 - 58 + 116) return std::byte{0x5A};
    const std::size_t in_buffer = i - (4096 - 58) + 1000 - 8;
    return in_buffer >= 1000 && in_buffer < 1100 ? part[in_buffer - 1000] : whole[in_buffer];
  };
  for (std::size_t i = 0; i < memory->size(); ++i) ASSERT_EQ(memory->bytes()[i], expected(i)) << i;
}

TEST_P(Edu, BoundsAreCheckedBeforeTheDeviceIsAsked) {
  auto driver = start();
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(code_of(driver.write(4081, bytes)), EINVAL);
  EXPECT_EQ(code_of(driver.read(~UINT64_C(0), bytes)), EINVAL);
  EXPECT_EQ(code_of(driver.transfer(Driver::Direction::to_device, 0, {memory::Iova{UINT64_C(1) << 28}, 16})), EINVAL);
}

TEST_P(Edu, WithoutBusMasteringNothingIsMoved) {
  auto driver = start(Interrupts::none);
  auto memory = driver.allocate(4096);
  ASSERT_TRUE(memory) << why(memory);
  ASSERT_TRUE(driver.write(0, pattern(4096, 7)));
  ASSERT_TRUE(handle().disable_bus_master());
  ASSERT_TRUE(driver.transfer(Driver::Direction::from_device, 0, memory->range())) << "it ends all the same";
  EXPECT_TRUE(std::ranges::all_of(memory->bytes(), [](std::byte each) { return each == std::byte{0}; }));
  ASSERT_TRUE(handle().enable_bus_master());
  ASSERT_TRUE(driver.transfer(Driver::Direction::from_device, 0, memory->range()));
  EXPECT_TRUE(std::ranges::equal(memory->bytes(), pattern(4096, 7)));
}

/// On kernel VFIO the IOMMU refuses it, and the kernel's log says so.
TEST_P(Edu, DmaOutsideTheMappedMemoryTouchesNothing) {
  auto driver = start(Interrupts::none);
  std::vector<memory::DmaBuffer> neighbours;
  for (int i = 0; i < 4; ++i) neighbours.push_back(driver.allocate(4096).value());
  for (auto& each : neighbours) std::ranges::fill(each.bytes(), std::byte{0x5A});
  ASSERT_TRUE(driver.write(0, pattern(4096, 3)));
  // The last page that the device can address: pools grow from below.
  const memory::IovaRange nowhere{memory::Iova{edu::spec::default_dma_mask - 0xFFF}, 4096};
  for (const auto direction : {Driver::Direction::from_device, Driver::Direction::to_device}) {
    const auto moved = driver.transfer(direction, 0, nowhere);
    EXPECT_TRUE(moved) << "the device does not know it: " << why(moved);
  }
  for (auto& each : neighbours)
    EXPECT_TRUE(std::ranges::all_of(each.bytes(), [](std::byte byte) { return byte == std::byte{0x5A}; }));
  EXPECT_TRUE(driver.verify(1)) << "and works on";
}

TEST_P(Edu, MemoryThatWasGivenBackIsNotReachedAnyMore) {
  auto driver = start(Interrupts::none);
  constexpr std::size_t size = 2 << 20;
  const auto memory = memory::HostMemory::anonymous(size).value();
  auto mapped = handle().dma().map({memory->data(), size}, nullptr, 0);
  if (!mapped) {  // the other side is a process that needs a file
    const int code = mapped.error().code();
    EXPECT_TRUE(code == ENOTSUP || code == EINVAL) << why(mapped);
    return;
  }
  const memory::IovaRange range{mapped->iova(), 4096};
  if (memory::raw(range.last()) > edu::spec::default_dma_mask) return;  // not in its reach to begin with
  ASSERT_TRUE(driver.write(0, pattern(4096, 9)));
  mapped->reset();
  ASSERT_TRUE(driver.transfer(Driver::Direction::from_device, 0, range));
  EXPECT_TRUE(
      std::ranges::all_of(std::span(memory->data(), size), [](std::byte each) { return each == std::byte{0}; }));
}

TEST_P(Edu, AResetInTheMiddleOfATransferEndsItAndTheNextDriverStarts) {
  std::optional driver(start());
  auto memory = driver->allocate(4096);
  ASSERT_TRUE(memory) << why(memory);
  ASSERT_TRUE(driver->write(0, pattern(4096, 5)));
  start_transfer(memory->iova(), 4096, true);
  if (!handle().resettable()) {
    // The way out where there is no reset: the transfer ends, and the next driver waits for that.
    EXPECT_EQ(code_of(handle().reset()), ENOTSUP);
    driver.reset();
    EXPECT_TRUE(start().verify(2));
    return;
  }
  const auto reset = handle().reset();
  ASSERT_TRUE(reset) << why(reset);
  EXPECT_FALSE(transfer_runs());
  driver.reset();
  // Two transfers last longer than what was left of the one that was ended. A device that was quicker than the reset has
  // moved all of it; one that was not, nothing.
  EXPECT_TRUE(start().verify(2));
  const bool none = std::ranges::all_of(memory->bytes(), [](std::byte each) { return each == std::byte{0}; });
  EXPECT_TRUE(none || std::ranges::equal(memory->bytes(), pattern(4096, 5)));
}

TEST_P(Edu, ADriverThatIsGoneLeavesADeviceForTheNext) {
  {
    auto driver = start();
    start_transfer(driver.allocate(4096)->iova(), 64, false);
  }
  opened().reopen();
  ASSERT_TRUE(opened().open());
  auto driver = start();
  EXPECT_EQ(driver.factorial(6).value(), 720u);
  EXPECT_TRUE(driver.verify(3));
}

TEST_P(Edu, RegistersAreReadThroughAWindowWhereTheBarIsMapped) {
  using Registers = pci::RegisterWindow<edu::Identification, edu::Liveness, edu::DmaSource>;
  ASSERT_TRUE(handle().enable_memory());
  const auto registers = Registers::map(handle().bar(0).value());
  if (!registers) {
    EXPECT_EQ(registers.error().code(), ENOTSUP) << why(registers);
    return;
  }
  EXPECT_EQ(registers->read<edu::Identification>().value(), edu::Identification::version_1_0);
  registers->write(edu::Liveness(0x12345678));
  EXPECT_EQ(registers->read<edu::Liveness>().value(), ~0x12345678U);
  EXPECT_EQ(handle().bar(0)->read<std::uint32_t>(edu::Liveness::offset).value(), ~0x12345678U) << "the same register";
  handle().revoke();
  EXPECT_EQ(registers->read<edu::Identification>().value(), 0xFFFFFFFF);
}

TEST_P(Edu, AccessesReachTheDeviceInTheirOwnWidth) {
  ASSERT_TRUE(handle().enable_memory());
  const auto bar = handle().bar(0).value();
  ASSERT_TRUE(bar.write<std::uint64_t>(edu::DmaSource::offset, UINT64_C(0x0000001122334455)));
  EXPECT_EQ(bar.read<std::uint64_t>(edu::DmaSource::offset).value(), UINT64_C(0x0000001122334455));
  EXPECT_EQ(bar.read<std::uint32_t>(edu::DmaSource::offset).value(), 0x22334455U);
  ASSERT_TRUE(bar.write<std::uint32_t>(edu::DmaSource::offset, 1));
  EXPECT_EQ(bar.read<std::uint64_t>(edu::DmaSource::offset).value(), 1u) << "four bytes write all of it";
  // A register of four bytes does not answer to eight: no back end may make two accesses of it.
  EXPECT_EQ(bar.read<std::uint64_t>(edu::Identification::offset).value(), ~UINT64_C(0));
}

}  // namespace
}  // namespace outboard::drivers
