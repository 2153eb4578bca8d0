// The device, register by register, as docs/specs/edu.rst of QEMU has it; README.md has the notes that the names refer to.

#include <outboard/devices/edu/device.hpp>

#include <cstring>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/devices/edu/registration.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/testing/manual_loop.hpp>

namespace outboard::edu {
namespace {

using testing::ManualLoop;

constexpr std::uint32_t nobody = 0xFFFFFFFF;
constexpr std::uint64_t in_buffer = spec::buffer_address;

/// The device, its driver's end of the bus, and a little memory that both reach.
class EduDevice : public ::testing::Test {
 protected:
  EduDevice() { make({}); }

  void make(const Device::Options& options) {
    memory = {};
    vectors = {};
    auto made = Device::create(loop, Log(), options).value();
    device = made.get();
    handle = pci::LocalHandle::over(std::move(made), [this] { loop.run_until_idle(); }, "edu").value();
    ASSERT_TRUE(handle->enable_memory());
    ASSERT_TRUE(handle->enable_bus_master());
    memory = handle->dma().allocate(8192, {.alignment = 4096, .highest = memory::Iova{spec::default_dma_mask}}).value();
  }

  template <typename T = std::uint32_t>
  T read(std::uint64_t offset) {
    return handle->bar(0)->read<T>(offset).value();
  }
  template <typename T = std::uint32_t>
  void write(std::uint64_t offset, T value) {
    ASSERT_TRUE(handle->bar(0)->write<T>(offset, value));
  }
  void enable(pci::InterruptKind kind) { vectors = handle->enable_interrupts(kind, 1).value(); }
  std::uint64_t interrupts() {
    loop.run_until_idle();
    return vectors.vector(0).drain();
  }
  void start_transfer(std::uint64_t source, std::uint64_t destination, std::uint64_t count, std::uint32_t command) {
    write<std::uint64_t>(DmaSource::offset, source);
    write<std::uint64_t>(DmaDestination::offset, destination);
    write<std::uint64_t>(DmaCount::offset, count);
    write(DmaCommand::offset, command);
  }
  std::uint64_t address(std::uint64_t offset = 0) { return memory::raw(memory.iova()) + offset; }
  void fill_memory() {
    for (std::size_t i = 0; i < memory.size(); ++i) memory.bytes()[i] = static_cast<std::byte>(i * 7 + i / 256);
  }
  bool same(std::size_t a, std::size_t b, std::size_t size) {
    return std::memcmp(memory.data() + a, memory.data() + b, size) == 0;
  }

  static constexpr std::uint32_t to_device = 1, from_device = 3, with_interrupt = 4;

  ManualLoop loop;
  Device* device = nullptr;
  std::unique_ptr<pci::LocalHandle> handle;
  memory::DmaBuffer memory;
  pci::InterruptSet vectors;
};

TEST_F(EduDevice, IsWhatQemusIs) {
  const auto identity = handle->identity().value();
  EXPECT_EQ(identity.vendor, 0x1234);
  EXPECT_EQ(identity.device, 0x11E8);
  EXPECT_EQ(identity.subsystem_vendor, 0x1AF4);
  EXPECT_EQ(identity.subsystem, 0x1100);
  EXPECT_EQ(identity.class_code, 0x00FF00u);
  EXPECT_EQ(identity.revision, 0x10);
  EXPECT_EQ(handle->bar(0)->size(), UINT64_C(1) << 20);
  EXPECT_EQ(handle->region(pci::region::config)->size, 256u) << "a conventional function";
  EXPECT_EQ(handle->interrupts(pci::InterruptKind::intx)->count, 1u);
  EXPECT_EQ(handle->interrupts(pci::InterruptKind::msi)->count, 1u);
  EXPECT_EQ(handle->interrupts(pci::InterruptKind::msix)->count, 0u);
}

TEST_F(EduDevice, IdentifiesItself) {
  EXPECT_EQ(read(0x00), 0x010000EDu);
  write(0x00, 0u);
  EXPECT_EQ(read(0x00), 0x010000EDu);
}

TEST_F(EduDevice, ComplementsWhatItIsGiven) {
  for (const std::uint32_t value : {0U, 1U, 0x12345678U, 0xFFFFFFFFU}) {
    write(0x04, value);
    EXPECT_EQ(read(0x04), ~value);
  }
}

TEST_F(EduDevice, BelowHex80OnlyFourBytesAreAnAccess) {
  write(0x04, 0x11223344U);
  for (const std::uint64_t offset : {0x00, 0x04, 0x08, 0x20, 0x24}) {
    EXPECT_EQ(read<std::uint8_t>(offset), 0xFF) << offset;
    EXPECT_EQ(read<std::uint16_t>(offset), 0xFFFF) << offset;
    EXPECT_EQ(read<std::uint64_t>(offset), ~UINT64_C(0)) << offset;
  }
  write<std::uint8_t>(0x04, 0);
  write<std::uint16_t>(0x04, 0);
  write<std::uint64_t>(0x04, 0);
  EXPECT_EQ(read(0x04), ~0x11223344U);
}

TEST_F(EduDevice, FromHex80OnFourAndEightBytesAre) {
  write<std::uint64_t>(0x80, 0x1122334455667788);
  EXPECT_EQ(read<std::uint64_t>(0x80), 0x1122334455667788u);
  EXPECT_EQ(read(0x80), 0x55667788u) << "the lower half";
  write(0x80, 0x99AABBCCU);
  EXPECT_EQ(read<std::uint64_t>(0x80), 0x99AABBCCu) << "four bytes write the whole register";
  EXPECT_EQ(read(0x84), nobody) << "the upper half is not a register";
  EXPECT_EQ(read<std::uint16_t>(0x80), 0xFFFF);
  EXPECT_EQ(read<std::uint8_t>(0x80), 0xFF);
}

TEST_F(EduDevice, WhatIsNoRegisterReadsAsAllOnesAndDropsWhatIsWritten) {
  for (const std::uint64_t offset : {0x0CU, 0x10U, 0x28U, 0x60U, 0x64U, 0x68U, 0x84U, 0xA0U, 0x40000U, 0xFFFFCU}) {
    write(offset, 0U);
    EXPECT_EQ(read(offset), nobody) << offset;
  }
  EXPECT_EQ(read(0x02), nobody) << "neither is one half of one and half of another";
}

TEST_F(EduDevice, ALongAccessIsNoSeriesOfShortOnes) {
  std::vector<std::byte> bytes(256);
  ASSERT_TRUE(handle->read_region(0, 0, bytes));
  EXPECT_TRUE(std::ranges::all_of(bytes, [](std::byte each) { return each == std::byte{0xFF}; }));
}

// The factorial.

TEST_F(EduDevice, ComputesFactorialsModulo2To32) {
  const std::pair<std::uint32_t, std::uint32_t> expected[] = {
      {0, 1}, {1, 1}, {5, 120}, {12, 479001600}, {13, 1932053504}, {33, 0x80000000}, {34, 0}, {0xFFFFFFFF, 0}};
  for (const auto& [number, result] : expected) {
    write(0x08, number);
    loop.run_until_idle();
    EXPECT_EQ(read(0x20), 0u);
    EXPECT_EQ(read(0x08), result) << number;
  }
}

TEST_F(EduDevice, IsBusyWhileItComputesAndTakesNoOtherNumber) {
  make({.factorial_time = std::chrono::seconds(1)});
  write(0x08, 5U);
  EXPECT_EQ(read(0x20), 0x01u);
  EXPECT_EQ(read(0x08), 5u) << "not before the bit is clear";
  write(0x08, 3U);
  write(0x20, 0U);
  EXPECT_EQ(read(0x20), 0x01u) << "the bit is read-only";
  loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(read(0x20), 0u);
  EXPECT_EQ(read(0x08), 120u);
}

TEST_F(EduDevice, StatusKeepsOnlyTheInterruptBit) {
  write(0x20, 0xFFFFFFFFU);
  EXPECT_EQ(read(0x20), 0x80u);
  write(0x20, 0U);
  EXPECT_EQ(read(0x20), 0u);
}

TEST_F(EduDevice, AFactorialRaisesTheInterruptWhereThatIsAskedFor) {
  enable(pci::InterruptKind::msi);
  write(0x08, 5U);
  EXPECT_EQ(interrupts(), 0u);
  write(0x20, 0x80U);
  write(0x08, 5U);
  EXPECT_EQ(interrupts(), 1u);
  EXPECT_EQ(read(0x24), 1u);
  EXPECT_EQ(read(0x20), 0x80u);
}

// Interrupts.

TEST_F(EduDevice, WhatIsRaisedAccumulatesUntilItIsAcknowledged) {
  write(0x60, 0x5U);
  write(0x60, 0xAU);
  EXPECT_EQ(read(0x24), 0xFu);
  write(0x64, 0x6U);
  EXPECT_EQ(read(0x24), 0x9u);
  write(0x24, 0U);
  EXPECT_EQ(read(0x24), 0x9u) << "read-only";
  write(0x64, nobody);
  EXPECT_EQ(read(0x24), 0u);
}

TEST_F(EduDevice, IntxStaysAssertedUntilAllIsAcknowledged) {
  enable(pci::InterruptKind::intx);
  write(0x60, 0x3U);
  EXPECT_EQ(interrupts(), 1u);
  ASSERT_TRUE(vectors.unmask());
  EXPECT_EQ(interrupts(), 1u) << "unmasked before it was acknowledged";
  write(0x64, 0x1U);
  ASSERT_TRUE(vectors.unmask());
  EXPECT_EQ(interrupts(), 1u);
  write(0x64, 0x2U);
  ASSERT_TRUE(vectors.unmask());
  EXPECT_EQ(interrupts(), 0u);
}

TEST_F(EduDevice, StatusOfTheHeaderTellsWhetherIntxIsAsserted) {
  const auto asserted = [&] {
    return handle->config().read<pci::StatusRegister>()->get(pci::StatusRegister::interrupt) != 0;
  };
  EXPECT_FALSE(asserted());
  write(0x60, 0x1U);
  EXPECT_TRUE(asserted());
  write(0x64, 0x1U);
  EXPECT_FALSE(asserted());
}

TEST_F(EduDevice, MsiIsOneMessageForEachTimeItIsRaised) {
  enable(pci::InterruptKind::msi);
  write(0x60, 0x1U);
  EXPECT_EQ(interrupts(), 1u);
  write(0x60, 0x2U);
  EXPECT_EQ(interrupts(), 1u) << "also while the first has not been acknowledged";
  EXPECT_EQ(read(0x24), 0x3u);
  write(0x64, 0x3U);
  EXPECT_EQ(interrupts(), 0u);
}

TEST_F(EduDevice, RaisingNothingIsNoInterrupt) {
  enable(pci::InterruptKind::msi);
  write(0x60, 0x0U);
  EXPECT_EQ(interrupts(), 0u);
}

// DMA.

TEST_F(EduDevice, CopiesFromMemoryAndBack) {
  fill_memory();
  start_transfer(address(), in_buffer, 4096, to_device);
  loop.run_until_idle();
  EXPECT_EQ(read(0x98), 0u);
  start_transfer(in_buffer, address(4096), 4096, from_device);
  loop.run_until_idle();
  EXPECT_TRUE(same(0, 4096, 4096));
  EXPECT_EQ(device->failed_transfers(), 0u);
}

TEST_F(EduDevice, CopiesAPartOfTheBuffer) {
  fill_memory();
  start_transfer(address(3), in_buffer + 1001, 100, to_device);
  loop.run_until_idle();
  start_transfer(in_buffer + 1001, address(4096), 100, from_device);
  loop.run_until_idle();
  EXPECT_TRUE(same(3, 4096, 100));
}

TEST_F(EduDevice, ATransferTakesItsTimeAndKeepsItsRegistersMeanwhile) {
  make({.dma_time = std::chrono::milliseconds(100)});
  start_transfer(address(), in_buffer, 16, to_device | with_interrupt);
  loop.advance(std::chrono::milliseconds(99));
  EXPECT_EQ(read(0x98), 5u);
  write(0x80, 1U);
  write(0x88, 2U);
  write(0x90, 3U);
  write(0x98, 3U);
  EXPECT_EQ(read<std::uint64_t>(0x80), address());
  EXPECT_EQ(read<std::uint64_t>(0x88), in_buffer);
  EXPECT_EQ(read<std::uint64_t>(0x90), 16u);
  loop.advance(std::chrono::milliseconds(1));
  EXPECT_EQ(read(0x98), 4u) << "all but the bit that started it";
  EXPECT_EQ(read(0x24), 0x100u);
}

TEST_F(EduDevice, ACommandWithoutTheStartBitIsDropped) {
  write(0x98, 6U);
  EXPECT_EQ(read(0x98), 0u);
}

TEST_F(EduDevice, TheEndOfATransferRaisesTheInterruptWhereThatIsAskedFor) {
  enable(pci::InterruptKind::msi);
  start_transfer(address(), in_buffer, 16, to_device);
  EXPECT_EQ(interrupts(), 0u);
  start_transfer(address(), in_buffer, 16, to_device | with_interrupt);
  EXPECT_EQ(interrupts(), 1u);
  EXPECT_EQ(read(0x24), 0x100u);
}

TEST_F(EduDevice, AnAddressLosesTheBitsThatTheEngineDoesNotHave) {
  fill_memory();
  start_transfer(address() | UINT64_C(1) << 40, in_buffer, 64, to_device);
  loop.run_until_idle();
  start_transfer(in_buffer, address(4096), 64, from_device);
  loop.run_until_idle();
  EXPECT_TRUE(same(0, 4096, 64));
}

TEST_F(EduDevice, AWiderMaskReachesFurther) {
  make({.dma_mask = ~UINT64_C(0)});
  fill_memory();
  start_transfer(address() | UINT64_C(1) << 40, in_buffer, 64, to_device);
  loop.run_until_idle();
  EXPECT_EQ(device->failed_transfers(), 1u) << "there is nothing at that address";
}

/// What a driver may write into the registers and no device may follow.
TEST_F(EduDevice, ATransferOutsideTheBufferMovesNothingAndEnds) {
  fill_memory();
  const std::vector<std::byte> before(memory.bytes().begin(), memory.bytes().end());
  const std::pair<std::uint64_t, std::uint64_t> wrong[] = {
      {0, 16},
      {in_buffer - 1, 16},
      {in_buffer, 4097},
      {in_buffer + 4096, 1},
      {in_buffer + 4095, 2},
      {in_buffer + 1, ~UINT64_C(0)},
      {~UINT64_C(0), 16},
      {~UINT64_C(0), ~UINT64_C(0)},
  };
  std::uint64_t failed = 0;
  for (const auto& [inside, count] : wrong) {
    for (const bool out : {false, true}) {
      start_transfer(out ? inside : address(), out ? address() : inside, count,
                     (out ? from_device : to_device) | with_interrupt);
      loop.run_until_idle();
      EXPECT_EQ(read(0x98) & 1, 0u);
      EXPECT_EQ(read(0x24), 0x100u) << "it ends as any other";
      write(0x64, nobody);
      EXPECT_EQ(device->failed_transfers(), ++failed);
    }
  }
  EXPECT_TRUE(std::ranges::equal(before, memory.bytes()));
}

TEST_F(EduDevice, MemoryThatIsNotThereIsNotTouched) {
  const std::uint64_t nowhere = 0x1000;  // no buffer lies so low
  start_transfer(nowhere, in_buffer, 64, to_device);
  loop.run_until_idle();
  start_transfer(in_buffer, nowhere, 64, from_device);
  loop.run_until_idle();
  start_transfer(address(8192 - 32), in_buffer, 64, to_device);  // its second half
  loop.run_until_idle();
  EXPECT_GE(device->failed_transfers(), 2u);
  EXPECT_EQ(read(0x98) & 1, 0u);
}

TEST_F(EduDevice, ATransferOfNothingEnds) {
  start_transfer(0, in_buffer + 4096, 0, to_device);
  loop.run_until_idle();
  EXPECT_EQ(read(0x98), 0u);
  EXPECT_EQ(device->failed_transfers(), 0u);
}

TEST_F(EduDevice, VFIO47_WithoutBusMasteringNothingIsMovedAndNoMessageSent) {
  fill_memory();
  enable(pci::InterruptKind::msi);
  ASSERT_TRUE(handle->disable_bus_master());
  start_transfer(in_buffer, address(), 64, from_device | with_interrupt);
  EXPECT_EQ(interrupts(), 0u);
  EXPECT_EQ(memory.bytes()[1], std::byte{7}) << "its memory is as it was";
  EXPECT_EQ(device->failed_transfers(), 1u);
  ASSERT_TRUE(handle->enable_bus_master());
  EXPECT_EQ(interrupts(), 1u) << "the message waited";
}

// Reset.

TEST_F(EduDevice, AResetReturnsEveryRegisterAndTheBufferToZero) {
  fill_memory();
  start_transfer(address(), in_buffer, 64, to_device);
  loop.run_until_idle();
  write(0x04, 1U);
  write(0x20, 0x80U);
  write(0x60, 0x7U);
  ASSERT_TRUE(handle->reset());
  ASSERT_TRUE(handle->enable_memory());
  ASSERT_TRUE(handle->enable_bus_master());
  for (const std::uint64_t offset : {0x04, 0x08, 0x20, 0x24, 0x80, 0x88, 0x90, 0x98})
    EXPECT_EQ(read(offset), 0u) << offset;
  start_transfer(in_buffer, address(), 64, from_device);
  loop.run_until_idle();
  EXPECT_EQ(std::accumulate(memory.data(), memory.data() + 64, 0,
                            [](int sum, std::byte each) { return sum + std::to_integer<int>(each); }),
            0);
}

TEST_F(EduDevice, AResetEndsWhatIsUnderWay) {
  make({.factorial_time = std::chrono::seconds(1), .dma_time = std::chrono::seconds(1)});
  fill_memory();
  enable(pci::InterruptKind::intx);
  write(0x20, 0x80U);
  write(0x08, 5U);
  start_transfer(in_buffer, address(), 64, from_device | with_interrupt);
  ASSERT_TRUE(handle->reset());
  ASSERT_TRUE(handle->enable_memory());
  loop.advance(std::chrono::seconds(2));
  EXPECT_EQ(interrupts(), 0u);
  EXPECT_EQ(read(0x20), 0u);
  EXPECT_EQ(read(0x08), 0u);
  EXPECT_EQ(memory.bytes()[1], std::byte{7});
}

/// A client's memory that is reached by messages: an answer comes when the test says so.
class HeldPort final : public memory::MemoryPort {
 public:
  void read(memory::Iova, MutableBytes into, Completion done) override {
    std::ranges::fill(into, std::byte{0x55});
    held = std::move(done);
  }
  void write(memory::Iova, Bytes, Completion done) override { held = std::move(done); }
  std::uint64_t max_transfer() const override { return 65536; }
  Completion held;
};

class EduDeviceOverMessages : public EduDevice {
 protected:
  EduDeviceOverMessages() {
    EXPECT_TRUE(device->map({.range = {memory::Iova{0x10000}, 0x1000}, .memory = nullptr, .port = port}));
    start_transfer(0x10000, in_buffer, 64, to_device | with_interrupt);
    loop.run_until_idle();
  }
  // What is held knows the memory, and with it the port: it does not go by itself.
  ~EduDeviceOverMessages() override { port->held = nullptr; }
  void answer() { std::exchange(port->held, nullptr)({}); }
  std::shared_ptr<HeldPort> port = std::make_shared<HeldPort>();
};

TEST_F(EduDeviceOverMessages, ATransferIsBusyUntilTheAnswerComes) {
  EXPECT_EQ(read(0x98), 5u);
  answer();
  EXPECT_EQ(read(0x98), 4u);
  EXPECT_EQ(read(0x24), 0x100u);
}

TEST_F(EduDeviceOverMessages, AResetWaitsForTheAnswerThatStillGoesIntoTheBuffer) {
  bool reset = false;
  device->reset([&](const Status& done) { reset = done.has_value(); });
  EXPECT_FALSE(reset);
  answer();
  EXPECT_TRUE(reset);
  ASSERT_TRUE(handle->enable_memory());
  EXPECT_EQ(read(0x98), 0u);
  EXPECT_EQ(read(0x24), 0u);
}

TEST_F(EduDeviceOverMessages, AnAnswerThatComesWhenTheDeviceHasGoneIsNobodys) {
  memory = {};
  handle.reset();
  if (port->held) answer();
}

TEST(EduRegistration, TakesItsWordsAndRefusesOthers) {
  ManualLoop loop;
  auto set = OptionSet::parse("dma-mask=0xffffffff,dma-time=100000,factorial-time=5").value();
  EXPECT_TRUE(registration.make(set, loop, Log()));
  auto wrong = OptionSet::parse("dma-maks=1").value();
  const auto refused = registration.make(wrong, loop, Log());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), EINVAL);
  auto beyond = OptionSet::parse("dma-time=60000001").value();
  EXPECT_EQ(registration.make(beyond, loop, Log()).error().code(), ERANGE);
}

}  // namespace
}  // namespace outboard::edu
