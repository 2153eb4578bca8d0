// A disk whose driver's memory is not there, on a transport that cannot say that the device is broken: the request ends with
// IOERR wherever its status byte can be written. Rows as in docs/spec-map.md.

#include <outboard/devices/blk/device.hpp>

#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/memory/fault_guard.hpp>
#include <outboard/testing/hand_driver.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/virtio/device_core.hpp>
#include <outboard/virtio/spec.hpp>
#include <tests/support/held_backend.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::blk {
namespace {

using memory::Access;
using memory::Iova;
using testing::HandDriver;
using Used = HandDriver::Used;

constexpr std::uint64_t page = 4096;
constexpr Iova hole{0x7000000}, kept{0x9000000}, lost{0x9001000}, read_only{0xa000000};
constexpr std::byte ioerr{spec::status::ioerr};

/// A disk, a ring, two pages of a file that can be cut behind the first, and a page that may only be read.
class Rig final : public virtio::TransportEvents {
 public:
  explicit Rig(bool contains_faults) {
    auto backend = std::make_unique<testing::HeldBackend>(1 << 20);
    disk = backend.get();
    device_ = Device::create(std::move(backend), {}).value();
    core = virtio::DeviceCore::create(*device_, map_, loop, *this, {.contains_faults = contains_faults}).value();
    auto file = memory::HostMemory::map_file(file_, 0, 2 * page, Access::read_write).value();
    const memory::Mapping mappings[] = {
        driver.mapping(),
        {.range = {kept, 2 * page}, .access = Access::read_write, .memory = file, .offset = 0, .port = {}},
        {.range = {read_only, page}, .access = Access::read, .memory = file, .offset = 0, .port = {}}};
    for (const auto& mapping : mappings) EXPECT_TRUE(map_.map(mapping));
    driver.initialise(*core);
  }

  HandDriver::Chain request(std::uint32_t type) {
    const spec::RequestHeader header{type, 0, 0};
    return driver.chain().readable({reinterpret_cast<const char*>(&header), sizeof header});
  }
  void shrink() const { ASSERT_EQ(::ftruncate(file_.get(), page), 0); }
  void process() {
    core->kick(0);
    loop.run_until_idle();
  }
  /// The status of an answer that has to come.
  std::byte status(const HandDriver::Chain& chain, std::size_t element) {
    process();
    EXPECT_EQ(driver.take_used().size(), 1U);
    EXPECT_FALSE(core->broken());
    return *driver.at(chain.at(element));
  }
  bool lives() {
    auto chain = request(spec::type::in);
    chain.writable(512).writable(1).publish();
    return status(chain, 2) == std::byte{spec::status::ok};
  }
  void notify_queue(unsigned) override {}
  void notify_config() override {}

  testing::ManualLoop loop;
  HandDriver driver{{}};
  testing::HeldBackend* disk = nullptr;

 private:
  UniqueFd file_{testing::make_memfd(2 * page)};
  memory::AddressMap map_{loop};
  std::unique_ptr<Device> device_;

 public:
  std::unique_ptr<virtio::DeviceCore> core;
};

class BlkFaults : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(memory::install_fault_guard()); }
};

TEST_F(BlkFaults, VDUSE32_DataInAHoleAreAnIoError) {
  Rig rig(true);
  for (const auto type : {spec::type::in, spec::type::out}) {
    auto chain = rig.request(type);
    type == spec::type::in ? chain.writable_at(hole, 512) : chain.readable_at(hole, 512);
    chain.writable(1).publish();
    EXPECT_EQ(rig.status(chain, 2), ioerr);
  }
  EXPECT_TRUE(rig.disk->calls.empty());
  EXPECT_TRUE(rig.lives());
}

TEST_F(BlkFaults, VDUSE32_AHeaderInAHoleIsAnIoError) {
  Rig rig(true);
  auto chain = rig.driver.chain();
  chain.readable_at(hole, sizeof(spec::RequestHeader)).writable(512).writable(1).publish();
  EXPECT_EQ(rig.status(chain, 2), ioerr);
  EXPECT_TRUE(rig.lives());
}

TEST_F(BlkFaults, VDUSE32_RangesInAHoleAreAnIoError) {
  Rig rig(true);
  auto chain = rig.request(spec::type::discard);
  chain.readable_at(hole, sizeof(spec::RangeSegment)).writable(1).publish();
  EXPECT_EQ(rig.status(chain, 2), ioerr);
  EXPECT_TRUE(rig.disk->calls.empty());
  EXPECT_TRUE(rig.lives());
}

TEST_F(BlkFaults, VDUSE33_DataInMemoryThatMayOnlyBeReadAreAnIoError) {
  Rig rig(true);
  auto chain = rig.request(spec::type::in);
  chain.writable_at(read_only, 512).writable(1).publish();
  EXPECT_EQ(rig.status(chain, 2), ioerr);
  EXPECT_TRUE(rig.disk->calls.empty());
  EXPECT_TRUE(rig.lives());
}

TEST_F(BlkFaults, VDUSE32_AnUnwritableStatusByteGivesLengthZeroAndNoBreak) {
  Rig rig(true);
  for (const Iova nowhere : {hole, read_only}) {
    rig.request(spec::type::flush).writable_at(nowhere, 1).publish();
    rig.process();
    const auto used = rig.driver.take_used();
    ASSERT_EQ(used.size(), 1U);
    EXPECT_EQ(used[0].length, 0U);
  }
  EXPECT_TRUE(rig.lives());
}

TEST_F(BlkFaults, VDUSE32_DataInAFileThatHasShrunkAreAnIoError) {
  for (const auto type : {spec::type::in, spec::type::out}) {
    Rig rig(true);
    rig.shrink();
    auto chain = rig.request(type);
    type == spec::type::in ? chain.writable_at(lost, 512) : chain.readable_at(lost, 512);
    chain.writable(1).publish();
    EXPECT_EQ(rig.status(chain, 2), ioerr);
    EXPECT_TRUE(rig.lives());
  }
}

TEST_F(BlkFaults, VDUSE32_DataInAFileThatShrinksMeanwhileAreAnIoError) {
  for (const auto type : {spec::type::in, spec::type::out}) {
    Rig rig(true);
    // It has looked, and touches the memory when the file is gone already.
    rig.disk->fails = [&rig](const auto&) {
      rig.shrink();
      return 0;
    };
    auto chain = rig.request(type);
    type == spec::type::in ? chain.writable_at(lost, 512) : chain.readable_at(lost, 512);
    chain.writable(1).publish();
    EXPECT_EQ(rig.status(chain, 2), ioerr) << "the data are lost, or were never the driver's";
    EXPECT_TRUE(rig.lives());
  }
}

TEST_F(BlkFaults, WhereTheDriverCanBeToldSuchARequestIsTheEndOfTheDevice) {
  {
    Rig rig(false);
    rig.request(spec::type::in).writable_at(hole, 512).writable(1).publish();
    rig.process();
    EXPECT_TRUE(rig.core->broken());
    EXPECT_EQ(rig.driver.used_count(), 0U);
  }
  Rig rig(false);
  rig.disk->fails = [&rig](const auto&) {
    rig.shrink();
    return 0;
  };
  rig.request(spec::type::in).writable_at(lost, 512).writable(1).publish();
  rig.process();
  EXPECT_TRUE(rig.core->broken());
  EXPECT_EQ(rig.driver.used_count(), 0U);
}

}  // namespace
}  // namespace outboard::blk
