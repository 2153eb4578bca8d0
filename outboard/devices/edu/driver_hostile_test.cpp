// The driver against a device that need not be sane: an error in bounded time, whatever its registers say. "Row" is a row of
// docs/spec-map.md, VFIO-n.

#include <outboard/devices/edu/driver.hpp>

#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/devices/edu/device.hpp>
#include <outboard/pci/emulated_function.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/testing/manual_loop.hpp>

namespace outboard::edu {
namespace {

using ::testing::HasSubstr;
using testing::ManualLoop;
using Interrupts = Driver::Interrupts;

/// Registers that do what the test says. Without a word from it: idle, alive, and nothing ever happens.
class WrongDevice final : public pci::EmulatedFunction {
 public:
  struct Shape {
    std::uint16_t device = spec::device_id;
    std::uint64_t bar_size = spec::bar_size;
    bool intx = true;
    bool msi = true;
  };
  WrongDevice(Loop& loop, const Shape& shape)
      : EmulatedFunction(loop, Log(), {.vendor = spec::vendor_id, .device = shape.device, .express = false}) {
    EXPECT_TRUE(add_bar(0, {.size = shape.bar_size, .areas = {}}));
    EXPECT_TRUE(!shape.intx || add_intx());
    EXPECT_TRUE(!shape.msi || add_msi(1));
  }
  using EmulatedFunction::bus_master;
  using EmulatedFunction::config;
  using EmulatedFunction::interrupts;

  std::map<std::uint64_t, std::uint64_t> registers{{Identification::offset, Identification::version_1_0}};
  std::function<std::optional<std::uint64_t>(std::uint64_t offset)> on_read;
  std::function<void(std::uint64_t offset, std::uint64_t value)> on_write;
  std::uint64_t reads = 0, writes = 0;
  /// 8 bytes arrive as two accesses of 4, as a kernel without a 64-bit access to registers makes them.
  bool splits = false;

 protected:
  void read_bar(unsigned bar, std::uint64_t offset, MutableBytes into) override {
    if (splits && into.size() == 8) {
      read_bar(bar, offset, into.first(4));
      std::ranges::fill(into.subspan(4), std::byte{0xFF});  // no register is there
      return;
    }
    ++reads;
    const auto said = on_read ? on_read(offset) : std::nullopt;
    const le64 value(said ? *said : registers[offset]);
    std::memcpy(into.data(), &value, std::min(into.size(), sizeof value));
  }
  void write_bar(unsigned bar, std::uint64_t offset, Bytes from) override {
    if (splits && from.size() == 8) {
      write_bar(bar, offset, from.first(4));
      return;
    }
    ++writes;
    le64 value(0);
    std::memcpy(&value, from.data(), std::min(from.size(), sizeof value));
    registers[offset] = offset == Liveness::offset ? ~std::uint64_t{value} & 0xFFFFFFFF : std::uint64_t{value};
    if (offset == DmaCommand::offset) registers[offset] = value & ~UINT64_C(1);
    if (on_write) on_write(offset, value);
  }
  void reset_device(Loop::Task done) override { done(); }
};

constexpr Duration timeout = std::chrono::seconds(2);

class WrongEdu : public ::testing::Test {
 protected:
  void make(const WrongDevice::Shape& shape) {
    auto made = std::make_unique<WrongDevice>(loop, shape);
    device = made.get();
    handle = pci::LocalHandle::over(std::move(made), [this] { loop.run_until_idle(); }, "edu").value();
  }
  WrongEdu() { make({}); }

  Result<Driver> start(Interrupts interrupts = Interrupts::none) {
    return Driver::start(*handle, {.interrupts = interrupts,
                                   .timeout = timeout,
                                   .clock = &loop.clock(),
                                   .wait = [this](std::span<const int>, Duration time) {
                                     if (while_waiting) std::exchange(while_waiting, nullptr)();
                                     // What is signalled all the time is not waited for.
                                     loop.advance(storm ? std::chrono::microseconds(1) : time);
                                     return true;
                                   }});
  }
  void raise_without_cause() {
    device->interrupts().set_intx(false);
    device->interrupts().set_intx(true);
    device->interrupts().signal_msi(0);
  }
  /// From now on each read of `at`, which says `value`, comes with an interrupt without a cause.
  void let_it_storm(std::uint64_t at, std::uint64_t value) {
    storm = true;
    device->on_read = [this, at, value](std::uint64_t offset) -> std::optional<std::uint64_t> {
      if (offset == InterruptStatus::offset) return 0;
      if (offset != at) return std::nullopt;
      raise_without_cause();
      return value;
    };
  }
  static int code(const auto& result) { return result ? 0 : result.error().code(); }

  ManualLoop loop;
  bool storm = false;
  std::function<void()> while_waiting;  ///< called once
  WrongDevice* device = nullptr;
  std::unique_ptr<pci::LocalHandle> handle;
  std::array<std::byte, 64> bytes{};
};

TEST_F(WrongEdu, StartsOnTheDeviceOfThisTestAsItIs) { EXPECT_TRUE(start()) << start().error().message(); }

TEST_F(WrongEdu, AnotherDeviceIdIsNotTouched) {
  make({.device = 0x11E9});
  EXPECT_EQ(code(start()), ENODEV);
  EXPECT_EQ(device->reads + device->writes, 0u);
}

TEST_F(WrongEdu, ABarWithoutRoomForTheRegistersIsRefused) {
  for (const std::uint64_t size : {16, 32, 64, 128}) {
    make({.bar_size = size});
    EXPECT_EQ(code(start()), ENODEV) << size;
    EXPECT_EQ(device->reads + device->writes, 0u);
  }
  make({.bar_size = 256});
  EXPECT_TRUE(start());
}

TEST_F(WrongEdu, VFIO17_AllOnesFromTheStartIsAnAbsentDevice) {
  device->on_read = [](std::uint64_t) { return ~UINT64_C(0); };
  EXPECT_EQ(code(start()), ENODEV);
}

TEST_F(WrongEdu, VFIO17_AllOnesFromAnyReadOnIsAnAbsentDevice) {
  // Where it goes away: at each of its reads once. A start and two transfers and a factorial are fewer than 100.
  unsigned ended_well = 0;
  for (std::uint64_t good = 0; good < 100; ++good) {
    make({});
    device->on_read = [&](std::uint64_t) { return device->reads > good ? std::optional(~UINT64_C(0)) : std::nullopt; };
    auto driver = start();
    Status last = driver ? Status() : Status(driver.error());
    if (last) last = driver->write(0, bytes);
    if (last) last = driver->read(0, bytes);
    if (last) {
      const auto product = driver->factorial(5);
      if (!product) last = product.error();
    }
    if (last) {
      ++ended_well;
    } else {
      EXPECT_EQ(last.error().code(), ENODEV) << good << ": " << last.error().message();
    }
  }
  EXPECT_GT(ended_well, 0u);
}

TEST_F(WrongEdu, AnIdentificationThatDoesNotEndInEdIsRefused) {
  device->registers[Identification::offset] = 0x010000EE;
  EXPECT_EQ(code(start()), EPROTO);
}

TEST_F(WrongEdu, ADeviceThatDoesNotComplementIsRefused) {
  for (const std::uint64_t answer : {UINT64_C(0), UINT64_C(0x5A0FF0A5), UINT64_C(0xA5F00F5B)}) {
    device->on_read = [&](std::uint64_t offset) {
      return offset == Liveness::offset ? std::optional(answer) : std::nullopt;
    };
    EXPECT_EQ(code(start()), EPROTO);
  }
}

// Busy for ever.

TEST_F(WrongEdu, AStatusThatIsStuckBusyIsTimedOutAtTheStart) {
  device->on_read = [](std::uint64_t offset) {
    return offset == ComputationStatus::offset ? std::optional(UINT64_C(1)) : std::nullopt;
  };
  EXPECT_EQ(code(start()), ETIMEDOUT);
}

TEST_F(WrongEdu, ATransferThatIsStuckIsTimedOutAtTheStart) {
  device->on_read = [](std::uint64_t offset) {
    return offset == DmaCommand::offset ? std::optional(UINT64_C(1)) : std::nullopt;
  };
  EXPECT_EQ(code(start()), ETIMEDOUT);
}

TEST_F(WrongEdu, AFactorialThatNeverEndsIsTimedOutAndTheNextMayEnd) {
  auto driver = start().value();
  device->on_read = [](std::uint64_t offset) {
    return offset == ComputationStatus::offset ? std::optional(UINT64_C(1)) : std::nullopt;
  };
  const TimePoint before = loop.clock().now();
  EXPECT_EQ(code(driver.factorial(5)), ETIMEDOUT);
  EXPECT_EQ(loop.clock().now() - before, timeout);
  device->on_read = nullptr;
  EXPECT_EQ(driver.factorial(5).value(), 5u) << "it says so itself";
}

TEST_F(WrongEdu, VFIO30_ATransferThatNeverEndsTakesTheBusAwayFromTheDevice) {
  auto driver = start().value();
  device->on_read = [](std::uint64_t offset) {
    return offset == DmaCommand::offset ? std::optional(UINT64_C(1)) : std::nullopt;
  };
  EXPECT_TRUE(device->bus_master());
  EXPECT_EQ(code(driver.write(0, bytes)), ETIMEDOUT);
  EXPECT_FALSE(device->bus_master()) << "the memory is the caller's again";
  device->on_read = nullptr;
  EXPECT_EQ(code(driver.write(0, bytes)), EIO) << "until the driver is started again";
  EXPECT_TRUE(start()->write(0, bytes));
  EXPECT_TRUE(device->bus_master());
}

// DMA that lies.

TEST_F(WrongEdu, ATransferThatMovesNothingIsFoundByVerify) {
  auto driver = start().value();
  const auto verified = driver.verify(1);
  ASSERT_FALSE(verified);
  EXPECT_EQ(verified.error().code(), EPROTO);
  EXPECT_THAT(verified.error().message(), HasSubstr("byte 0 of the buffer came back as"));
}

TEST_F(WrongEdu, ARegisterThatDoesNotTakeAnAddressIsFoundBeforeTheTransfer) {
  auto driver = start().value();
  for (const std::uint64_t offset : {DmaSource::offset, DmaDestination::offset, DmaCount::offset}) {
    bool started = false;
    device->on_read = [&](std::uint64_t at) { return at == offset ? std::optional(UINT64_C(0x40)) : std::nullopt; };
    device->on_write = [&](std::uint64_t at, std::uint64_t) { started |= at == DmaCommand::offset; };
    std::array<std::byte, 32> some{};
    EXPECT_EQ(code(driver.read(0, some)), EPROTO) << offset;
    EXPECT_FALSE(started);
  }
}

TEST_F(WrongEdu, AStartThatFailsLeavesTheDeviceNoBus) {
  make({.intx = false, .msi = false});
  EXPECT_EQ(code(start(Interrupts::msi)), ENOSPC);
  EXPECT_FALSE(device->bus_master());
}

// Interrupts.

TEST_F(WrongEdu, VFIO20_ADeviceWithoutVectorsIsPolledOrRefused) {
  make({.intx = false, .msi = false});
  EXPECT_EQ(code(start(Interrupts::msi)), ENOSPC);
  EXPECT_EQ(code(start(Interrupts::intx)), ENOSPC);
  const auto driver = start(Interrupts::automatic);
  ASSERT_TRUE(driver);
  EXPECT_EQ(driver->interrupt_kind(), std::nullopt);
}

TEST_F(WrongEdu, VFIO22_AnInterruptThatIsLostIsNamed) {
  for (const auto kind : {Interrupts::msi, Interrupts::intx}) {
    make({});
    auto driver = start(kind).value();
    const auto product = driver.factorial(5);
    ASSERT_FALSE(product);
    EXPECT_EQ(product.error().code(), EIO);
    EXPECT_THAT(product.error().message(), HasSubstr("finished, but its interrupt did not come"));
    EXPECT_EQ(code(driver.write(0, bytes)), EIO);
    EXPECT_EQ(code(driver.raise_interrupt(1)), ETIMEDOUT);
  }
}

TEST_F(WrongEdu, VFIO23_AnInterruptThatRepeatsWithoutACauseIsAnError) {
  for (const auto kind : {Interrupts::msi, Interrupts::intx}) {
    make({});
    auto driver = start(kind).value();
    let_it_storm(ComputationStatus::offset, 0);
    const auto product = driver.factorial(5);
    ASSERT_FALSE(product);
    EXPECT_EQ(product.error().code(), EIO);
    EXPECT_THAT(product.error().message(), HasSubstr("repeatedly without a cause"));
  }
}

TEST_F(WrongEdu, VFIO23_AStormDuringATransferEndsBusMastering) {
  for (const auto kind : {Interrupts::msi, Interrupts::intx}) {
    make({});
    auto driver = start(kind).value();
    let_it_storm(DmaCommand::offset, 1);
    const auto read = driver.read(0, bytes);
    ASSERT_FALSE(read);
    EXPECT_THAT(read.error().message(), HasSubstr("repeatedly without a cause"));
    EXPECT_FALSE(device->bus_master()) << "it may still write to memory that the caller has back";
    device->on_read = nullptr;
    EXPECT_EQ(code(driver.read(0, bytes)), EIO) << "until the driver is started again";
  }
}

TEST_F(WrongEdu, VFIO23_AStormDuringATransferThatHasEndedLeavesItTheBus) {
  for (const auto kind : {Interrupts::msi, Interrupts::intx}) {
    make({});
    auto driver = start(kind).value();
    let_it_storm(DmaCommand::offset, 0);
    EXPECT_EQ(code(driver.read(0, bytes)), EIO);
    EXPECT_TRUE(device->bus_master());
  }
}

TEST_F(WrongEdu, VFIO24_SeveralSignalsAreOneInterrupt) {
  auto driver = start(Interrupts::msi).value();
  device->registers[InterruptStatus::offset] = spec::cause::factorial;
  device->on_write = [&](std::uint64_t offset, std::uint64_t) {
    for (int i = 0; i < 3 && offset == Factorial::offset; ++i) device->interrupts().signal_msi(0);
  };
  EXPECT_TRUE(driver.factorial(5));
  EXPECT_EQ(driver.interrupts(), 1u);
}

TEST_F(WrongEdu, CausesThatCannotBeAcknowledgedDoNotKeepTheDriver) {
  auto driver = start(Interrupts::intx).value();
  device->on_read = [](std::uint64_t offset) {
    return offset == InterruptStatus::offset ? std::optional(UINT64_C(0x7FFFFFFF)) : std::nullopt;
  };
  device->interrupts().set_intx(true);
  EXPECT_TRUE(driver.factorial(5));
}

TEST_F(WrongEdu, ABackEndThatIsGoneIsItsError) {
  auto driver = start().value();
  handle->revoke();
  EXPECT_EQ(code(driver.factorial(5)), ENODEV);
  EXPECT_EQ(code(driver.write(0, bytes)), ENODEV);
  EXPECT_EQ(code(driver.check_alive()), ENODEV);
}

// An owner that is asked for the function revokes it, in whatever call of the driver that is served.
TEST_F(WrongEdu, ABackEndThatIsRevokedWhileTheDriverWaitsIsItsError) {
  for (const auto interrupts : {Interrupts::none, Interrupts::intx, Interrupts::msi}) {
    const auto busy = [](std::uint64_t offset) {
      return offset == ComputationStatus::offset || offset == DmaCommand::offset ? std::optional(UINT64_C(1))
                                                                                 : std::nullopt;
    };
    const std::function<int(Driver&)> calls[] = {[](Driver& driver) { return code(driver.factorial(5)); },
                                                 [this](Driver& driver) { return code(driver.write(0, bytes)); },
                                                 [this](Driver& driver) { return code(driver.read(0, bytes)); }};
    for (const auto& call : calls) {
      make({});
      auto driver = start(interrupts).value();
      device->on_read = busy;
      while_waiting = [this] { handle->revoke(); };
      EXPECT_EQ(call(driver), ENODEV);
      EXPECT_NE(call(driver), 0);
    }
  }
}

TEST_F(WrongEdu, APathThatCutsEightBytesInTwoIsEnoughForAddressesOfFour) {
  device->splits = true;
  auto driver = start();
  ASSERT_TRUE(driver) << driver.error().message();
  EXPECT_EQ(code(driver->write(0, bytes)), 0);
  EXPECT_EQ(code(driver->read(0, bytes)), 0);
}

}  // namespace
}  // namespace outboard::edu
