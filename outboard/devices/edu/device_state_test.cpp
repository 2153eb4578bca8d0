// The device's state, saved in the middle of its work, and going on in another device.

#include <outboard/devices/edu/device.hpp>

#include <vector>

#include <gtest/gtest.h>

#include <outboard/pci/registers.hpp>
#include <outboard/testing/manual_loop.hpp>

namespace outboard::edu {
namespace {

using testing::ManualLoop;

constexpr Duration work = std::chrono::milliseconds(100);

/// A device, the memory of its driver, and the line that it raises.
struct Side {
  explicit Side(std::shared_ptr<memory::HostMemory> driver) {
    EXPECT_TRUE(device->map({.range = {memory::Iova{0x1000}, 0x1000}, .memory = std::move(driver)}));
    std::vector<EventFd> theirs;
    theirs.push_back(line.duplicate().value());
    EXPECT_TRUE(device->bind_interrupts(pci::InterruptKind::intx, 0, std::move(theirs)));
  }

  template <typename T>
  void write(std::uint64_t offset, T value) {
    const EndianInteger<T, std::endian::little> field = value;
    EXPECT_TRUE(device->write_region(spec::bar, offset, as_bytes_of(field)));
  }
  std::uint32_t read(std::uint64_t offset) {
    le32 value{};
    EXPECT_TRUE(device->read_region(spec::bar, offset, as_writable_bytes_of(value)));
    return value;
  }
  void start() {
    const le16 command = pci::mask_of(pci::Command::memory_space, pci::Command::bus_master);
    EXPECT_TRUE(device->write_region(pci::region::config, raw(pci::Command::offset), as_bytes_of(command)));
  }
  Status stop() {
    Status result = Error(EINPROGRESS, "it has not stopped");
    device->stop([&](const Status& status) { result = status; });
    return result;
  }
  Status load(std::vector<std::byte> state) {
    Status result = Error(EINPROGRESS, "it has not been loaded");
    device->load(std::move(state), [&](const Status& status) { result = status; });
    return result;
  }

  ManualLoop loop;
  EventFd line = EventFd::create().value();
  std::unique_ptr<Device> device = Device::create(loop, Log(), {.factorial_time = work, .dma_time = work}).value();
};

class SavedEdu : public ::testing::Test {
 protected:
  void move() {
    ASSERT_TRUE(from.stop());
    ASSERT_TRUE(to.stop());
    const auto state = from.device->save().value();
    ASSERT_TRUE(to.load(state));
    EXPECT_EQ(to.device->save().value(), state);
    from.loop.advance(work);
    EXPECT_EQ(from.device->save().value(), state) << "it is stopped";
    ASSERT_TRUE(to.device->run());
  }
  void SetUp() override { from.start(); }

  std::shared_ptr<memory::HostMemory> memory = memory::HostMemory::anonymous(0x1000).value();
  Side from{memory}, to{memory};
};

TEST_F(SavedEdu, GoesOnWithItsFactorial) {
  from.write<std::uint32_t>(ComputationStatus::offset, mask_of(ComputationStatus::interrupt_when_done));
  from.write<std::uint32_t>(Factorial::offset, 5);
  move();
  EXPECT_EQ(to.read(ComputationStatus::offset) & mask_of(ComputationStatus::computing), 1U);
  to.loop.advance(work);
  EXPECT_EQ(to.read(Factorial::offset), 120U);
  EXPECT_EQ(to.line.drain(), 1U);
  EXPECT_EQ(from.line.drain(), 0U);
}

TEST_F(SavedEdu, GoesOnWithItsTransferAndHasItsBuffer) {
  std::fill_n(memory->data(), 16, std::byte{0x5a});
  const auto transfer = [](Side& side, std::uint64_t source, std::uint64_t destination, std::uint32_t command) {
    side.write<std::uint64_t>(DmaSource::offset, source);
    side.write<std::uint64_t>(DmaDestination::offset, destination);
    side.write<std::uint64_t>(DmaCount::offset, 16);
    side.write<std::uint32_t>(DmaCommand::offset, command);
  };
  transfer(from, 0x1000, spec::buffer_address, 1);
  from.loop.advance(work);
  transfer(from, spec::buffer_address, 0x1100, 3);
  move();
  EXPECT_EQ(memory->data()[0x100], std::byte{0});
  to.loop.advance(work);
  EXPECT_EQ(memory->data()[0x10f], std::byte{0x5a});
}

TEST_F(SavedEdu, BeginsWhatItWasToldWhileItWasStopped) {
  ASSERT_TRUE(from.stop());
  from.write<std::uint32_t>(Factorial::offset, 4);
  from.loop.advance(work);
  EXPECT_EQ(from.read(Factorial::offset), 4U);
  ASSERT_TRUE(from.device->run());
  from.loop.advance(work);
  EXPECT_EQ(from.read(Factorial::offset), 24U);
}

TEST_F(SavedEdu, HasTheCausesOfItsInterrupts) {
  from.write<std::uint32_t>(InterruptRaise::offset, 6);
  move();
  EXPECT_EQ(to.read(InterruptStatus::offset), 6U);
  EXPECT_EQ(to.line.drain(), 1U);
}

TEST_F(SavedEdu, TakesOrRefusesWholeAnyState) {
  from.write<std::uint32_t>(Factorial::offset, 5);
  ASSERT_TRUE(from.stop());
  const auto state = from.device->save().value();
  ASSERT_TRUE(to.stop());
  for (std::size_t at = 0; at < state.size(); ++at) {
    auto changed = state;
    changed[at] ^= std::byte{0x41};
    const auto before = to.device->save().value();
    ASSERT_FALSE(to.load({state.begin(), state.begin() + static_cast<std::ptrdiff_t>(at)}));
    ASSERT_EQ(to.device->save().value(), before) << at;
    const bool taken = to.load(changed).has_value();
    ASSERT_EQ(to.device->save().value(), taken ? changed : before) << at;
  }
}

}  // namespace
}  // namespace outboard::edu
