// The driver on our device, by each kind of interrupt and without.

#include <outboard/devices/edu/driver.hpp>

#include <array>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/devices/edu/device.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/plain_function.hpp>

namespace outboard::edu {
namespace {

using testing::ManualLoop;
using Interrupts = Driver::Interrupts;

std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(seed + i * 31 + i / 256);
  return bytes;
}

/// The device on a loop that goes on while the driver waits.
class Rig {
 public:
  explicit Rig(const Device::Options& options = {}) {
    auto made = Device::create(loop, Log(), options).value();
    device = made.get();
    handle = pci::LocalHandle::over(std::move(made), [this] { loop.run_until_idle(); }, "edu").value();
  }
  Driver::Options options(Interrupts interrupts = Interrupts::automatic) {
    return {.interrupts = interrupts, .clock = &loop.clock(), .wait = advance()};
  }
  std::function<bool(std::span<const int>, Duration)> advance() {
    return [this](std::span<const int>, Duration time) {
      loop.advance(time);
      return true;
    };
  }
  Driver start(Interrupts interrupts = Interrupts::automatic) {
    return Driver::start(*handle, options(interrupts)).value();
  }

  ManualLoop loop;
  Device* device = nullptr;
  std::unique_ptr<pci::LocalHandle> handle;
};

class EduDriver : public ::testing::TestWithParam<Interrupts> {};
INSTANTIATE_TEST_SUITE_P(, EduDriver, ::testing::Values(Interrupts::none, Interrupts::intx, Interrupts::msi),
                         [](const auto& each) {
                           return each.param == Interrupts::none   ? "Polling"
                                  : each.param == Interrupts::intx ? "Intx"
                                                                   : "Msi";
                         });

TEST_P(EduDriver, RecognisesTheDevice) {
  Rig rig;
  const Driver driver = rig.start(GetParam());
  EXPECT_EQ(driver.version().major, 1u);
  EXPECT_EQ(driver.version().minor, 0u);
  EXPECT_EQ(driver.interrupt_kind().has_value(), GetParam() != Interrupts::none);
}

TEST_P(EduDriver, ComputesFactorials) {
  Rig rig({.factorial_time = std::chrono::milliseconds(3)});
  Driver driver = rig.start(GetParam());
  for (const auto& [number, result] : {std::pair(0U, 1U), {5U, 120U}, {12U, 479001600U}, {34U, 0U}})
    EXPECT_EQ(driver.factorial(number).value(), result) << number;
  EXPECT_EQ(driver.interrupts(), GetParam() == Interrupts::none ? 0u : 4u);
}

TEST_P(EduDriver, MovesBytesBothWaysAndLeavesTheOthers) {
  Rig rig({.dma_time = std::chrono::milliseconds(100)});
  Driver driver = rig.start(GetParam());
  const auto whole = pattern(4096, 1), part = pattern(100, 200);
  ASSERT_TRUE(driver.write(0, whole));
  ASSERT_TRUE(driver.write(1000, part));
  std::vector<std::byte> back(4096);
  ASSERT_TRUE(driver.read(0, back));
  auto expected = whole;
  std::ranges::copy(part, expected.begin() + 1000);
  EXPECT_EQ(back, expected);
  EXPECT_TRUE(driver.verify(0));
  EXPECT_TRUE(driver.verify(0xFFFFFFFF));
}

TEST_P(EduDriver, TransfersMemoryOfTheCallers) {
  Rig rig;
  Driver driver = rig.start(GetParam());
  auto memory = driver.allocate(8192).value();
  EXPECT_LE(memory::raw(memory.range().last()), spec::default_dma_mask);
  std::ranges::copy(pattern(4096, 9), memory.data());
  ASSERT_TRUE(driver.transfer(Driver::Direction::to_device, 0, {memory.iova(), 4096}));
  ASSERT_TRUE(driver.transfer(Driver::Direction::from_device, 0, {memory.iova() + 4096, 4096}));
  EXPECT_TRUE(std::ranges::equal(memory.bytes().first(4096), memory.bytes().subspan(4096)));
}

TEST_P(EduDriver, IsStartedAgainOnADeviceThatWasLeftBusy) {
  Rig rig({.factorial_time = std::chrono::seconds(1), .dma_time = std::chrono::seconds(2)});
  ASSERT_TRUE(rig.handle->enable_memory());
  const auto bar = rig.handle->bar(0).value();
  ASSERT_TRUE(bar.write(ComputationStatus::offset, 0x80U));
  ASSERT_TRUE(bar.write(Factorial::offset, 5U));
  ASSERT_TRUE(bar.write(DmaCommand::offset, 5U));
  ASSERT_TRUE(bar.write(InterruptRaise::offset, 0x7U));
  Driver driver = rig.start(GetParam());
  EXPECT_EQ(bar.read<std::uint32_t>(InterruptStatus::offset).value(), 0u);
  EXPECT_EQ(driver.factorial(3).value(), 6u);
  EXPECT_TRUE(driver.verify(1));
}

TEST_P(EduDriver, IsStartedAgainAfterAReset) {
  Rig rig;
  {
    Driver first = rig.start(GetParam());
    ASSERT_TRUE(first.verify(1));
  }
  ASSERT_TRUE(rig.handle->reset());
  Driver second = rig.start(GetParam());
  EXPECT_EQ(second.factorial(4).value(), 24u);
  EXPECT_TRUE(second.verify(2));
}

TEST_P(EduDriver, AnAnswerIsThatOfItsOwnQuestion) {
  Rig rig({.factorial_time = std::chrono::seconds(15)});
  auto options = rig.options(GetParam());
  options.timeout = std::chrono::seconds(10);
  Driver driver = Driver::start(*rig.handle, options).value();
  EXPECT_EQ(driver.factorial(5).error().code(), ETIMEDOUT);
  EXPECT_EQ(driver.factorial(6).error().code(), ETIMEDOUT) << "the first is still being computed, and then its own";
  rig.loop.advance(std::chrono::seconds(60));
  EXPECT_EQ(rig.handle->bar(0)->read<std::uint32_t>(Factorial::offset).value(), 720u);
}

TEST_P(EduDriver, RaisesInterruptsByHand) {
  Rig rig;
  Driver driver = rig.start(GetParam());
  if (GetParam() == Interrupts::none) {
    EXPECT_EQ(driver.raise_interrupt(1).error().code(), ENOTSUP);
    return;
  }
  for (const std::uint32_t causes : {0x1U, 0x80000000U, 0xFFFFFFFEU})
    EXPECT_TRUE(driver.raise_interrupt(causes)) << causes;
  EXPECT_EQ(driver.interrupts(), 3u);
  EXPECT_EQ(driver.raise_interrupt(0).error().code(), EINVAL);
  EXPECT_EQ(driver.raise_interrupt(0xffff'ffff).error().code(), EINVAL);
}

TEST_P(EduDriver, BoundsAreCheckedBeforeTheDeviceIsAsked) {
  Rig rig;
  Driver driver = rig.start(GetParam());
  std::array<std::byte, 16> bytes{};
  for (const std::uint64_t offset : {UINT64_C(4081), UINT64_C(4097), ~UINT64_C(0)}) {
    EXPECT_EQ(driver.write(offset, bytes).error().code(), EINVAL) << offset;
    EXPECT_EQ(driver.read(offset, bytes).error().code(), EINVAL) << offset;
  }
  const auto refused = [&](memory::IovaRange range) {
    return driver.transfer(Driver::Direction::from_device, 0, range).error().code();
  };
  EXPECT_EQ(refused({memory::Iova{0x1000}, 0}), EINVAL);
  EXPECT_EQ(refused({memory::Iova{0x1000}, 4097}), EINVAL);
  EXPECT_EQ(refused({memory::Iova{spec::default_dma_mask}, 2}), EINVAL) << "beyond the mask";
  EXPECT_EQ(refused({memory::Iova{~UINT64_C(0)}, 2}), EINVAL);
  EXPECT_EQ(rig.device->failed_transfers(), 0u);
  EXPECT_TRUE(driver.write(4096, {}));
}

TEST_P(EduDriver, WhatIsNotWaitedForIsNotTrusted) {
  Rig rig({.factorial_time = std::chrono::seconds(1), .dma_time = std::chrono::seconds(1)});
  auto options = rig.options(GetParam());
  bool patient = true;
  options.wait = [&](std::span<const int> fds, Duration time) { return patient && rig.advance()(fds, time); };
  Driver driver = Driver::start(*rig.handle, options).value();
  patient = false;
  EXPECT_EQ(driver.factorial(5).error().code(), ECANCELED);
  EXPECT_EQ(driver.verify(1).error().code(), ECANCELED);
  EXPECT_EQ(driver.verify(1).error().code(), EIO);
  EXPECT_FALSE(rig.handle->config().read<pci::Command>()->get(pci::Command::bus_master));
}

TEST(EduDriverStart, PrefersMsi) {
  Rig rig;
  EXPECT_EQ(rig.start().interrupt_kind(), pci::InterruptKind::msi);
}

TEST(EduDriverStart, AddressesBeyondTheDefaultMaskTakeEightBytes) {
  Rig rig({.dma_mask = ~UINT64_C(0)});
  auto options = rig.options();
  options.dma_mask = ~UINT64_C(0);
  Driver driver = Driver::start(*rig.handle, options).value();
  // Nothing is there; that the device was asked for it, and not for something below 4 GiB, shows in its register.
  const memory::IovaRange far{memory::Iova{UINT64_C(0x123456789000)}, 64};
  ASSERT_TRUE(driver.transfer(Driver::Direction::to_device, 0, far));
  EXPECT_EQ(rig.handle->bar(0)->read<std::uint64_t>(DmaSource::offset).value(), memory::raw(far.start));
}

TEST(EduDriverStart, AnotherFunctionIsNotTouched) {
  ManualLoop loop;
  auto function = testing::PlainFunction::create(loop).value();
  auto& plain = *function;
  auto handle = pci::LocalHandle::over(std::move(function), [&] { loop.run_until_idle(); }, "plain").value();
  const auto driver = Driver::start(*handle);
  ASSERT_FALSE(driver);
  EXPECT_EQ(driver.error().code(), ENODEV);
  EXPECT_EQ(driver.error().message(), "plain: not an edu device: it is 1234:0b0d");
  EXPECT_EQ(plain.config().get<pci::Command>().value(), 0u);
}

}  // namespace
}  // namespace outboard::edu
