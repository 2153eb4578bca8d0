#include <outboard/virtio_pci/internal/common_config.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <map>

#include <outboard/virtio/spec.hpp>
#include <tests/support/virtio_function_rig.hpp>

namespace outboard::virtio_pci {
namespace {

using Common = spec::CommonConfig;
using Rig = testing::VirtioFunctionRig;
using virtio::Feature;
namespace status = virtio::spec::status;
constexpr std::uint8_t acked = Rig::acked, agreed = Rig::agreed, live = Rig::live;

// The registers.

TEST(CommonConfig, ResetValuesAreThoseOfTheTable) {
  Rig r;
  const std::map<std::size_t, std::uint16_t> words = {{offsetof(Common, config_msix_vector), 0xffff},
                                                      {offsetof(Common, num_queues), 2},
                                                      {offsetof(Common, device_status), 0},
                                                      {offsetof(Common, queue_select), 0},
                                                      {offsetof(Common, queue_size), 8},
                                                      {offsetof(Common, queue_msix_vector), 0xffff},
                                                      {offsetof(Common, queue_enable), 0},
                                                      {offsetof(Common, queue_notify_off), 0},
                                                      {offsetof(Common, queue_desc), 0},
                                                      {offsetof(Common, queue_reset), 0},
                                                      {offsetof(Common, queue_notif_config_data), 0},
                                                      {offsetof(Common, admin_queue_index), 0},
                                                      {offsetof(Common, admin_queue_num), 0}};
  for (const auto& [offset, value] : words) EXPECT_EQ(r.bar<std::uint16_t>(offset), value) << std::hex << offset;
  r.select(1);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_size)), 4);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_notify_off)), 1);
}

TEST(CommonConfig, EveryFeatureWordCanBeSelected) {  // D-CC-3, D-RFB-1
  Rig r;
  for (const std::uint32_t word : {0U, 1U, 2U, 3U, 4U, 5U, 0xffffffffU}) {
    r.set_bar<std::uint32_t>(offsetof(Common, device_feature_select), word);
    EXPECT_EQ(r.bar<std::uint32_t>(offsetof(Common, device_feature_select)), word);
    EXPECT_EQ(r.bar<std::uint32_t>(offsetof(Common, device_feature)), r.function->core().offered().word(word));
  }
  EXPECT_TRUE(r.function->core().offered().has(Feature::version_1));
}

TEST(CommonConfig, DriverFeaturesReadBack) {  // D-CC-4
  Rig r;
  r.negotiate({Feature::event_idx});
  r.set_bar<std::uint32_t>(offsetof(Common, driver_feature_select), 0);
  EXPECT_EQ(r.bar<std::uint32_t>(offsetof(Common, driver_feature)), 1U << 29);
  r.set_bar<std::uint32_t>(offsetof(Common, driver_feature_select), 1);
  EXPECT_EQ(r.bar<std::uint32_t>(offsetof(Common, driver_feature)), 3U);
}

TEST(CommonConfig, FeaturesAreFrozenAfterFeaturesOk) {  // VD-43
  Rig r;
  r.negotiate();
  r.set_bar<std::uint32_t>(offsetof(Common, driver_feature_select), 0);
  r.set_bar<std::uint32_t>(offsetof(Common, driver_feature), 1U << 29);
  EXPECT_EQ(r.bar<std::uint32_t>(offsetof(Common, driver_feature)), 0U);
}

TEST(CommonConfig, FeaturesThatCannotBeKeepFeaturesOkClear) {  // VD-44
  Rig r;
  r.negotiate({Feature::ring_packed});  // not offered
  EXPECT_EQ(r.device_status(), acked);
  r.negotiate({Feature::event_idx});
  EXPECT_EQ(r.device_status(), agreed);
  r.set_status(0);
  r.set_status(acked);
  r.set_status(agreed);  // without VERSION_1
  EXPECT_EQ(r.device_status(), acked);
  r.set_bar<std::uint32_t>(offsetof(Common, driver_feature_select), 7);
  r.set_bar<std::uint32_t>(offsetof(Common, driver_feature), 1);
  r.set_bar<std::uint32_t>(offsetof(Common, driver_feature_select), 1);
  r.set_bar<std::uint32_t>(offsetof(Common, driver_feature), 3);
  r.set_status(agreed);
  EXPECT_EQ(r.device_status(), acked) << "a bit beyond 127";
}

TEST(CommonConfig, OddStatusWritesAreIgnored) {  // VD-45
  Rig r;
  r.set_status(status::driver_ok);
  EXPECT_EQ(r.device_status() & status::driver_ok, 0);
  r.negotiate();
  r.set_status(status::acknowledge);
  EXPECT_EQ(r.device_status(), agreed) << "bits are not cleared";
  r.set_status(agreed | status::needs_reset);
  EXPECT_EQ(r.device_status(), agreed);
}

TEST(CommonConfig, ReadsOfAnyWidthGiveTheBytesAsTheyAre) {  // VD-47
  Rig r;
  r.start();
  r.select(1);
  std::array<std::byte, 64> whole{}, bytes{};
  ASSERT_TRUE(r.function->read_region(0, 0, whole));
  for (std::size_t i = 0; i < 64; ++i) bytes[i] = std::byte{r.bar<std::uint8_t>(i)};
  EXPECT_EQ(whole, bytes);
  for (std::size_t i = 0; i + 8 <= 64; ++i) {
    le64 value;
    std::memcpy(&value, whole.data() + i, 8);
    EXPECT_EQ(r.bar<std::uint64_t>(i), value) << i;
    EXPECT_EQ(r.bar<std::uint16_t>(i), static_cast<std::uint16_t>(value)) << i;
  }
  EXPECT_EQ(r.bar<std::uint64_t>(0x40), 0U) << "beyond the structure";
  std::vector<std::byte> all(0x4000);
  EXPECT_TRUE(r.function->read_region(0, 0, all)) << "the whole BAR at once";
}

TEST(CommonConfig, AWriteThatIsNotExactlyOneFieldIsIgnored) {  // VD-47
  Rig r;
  r.negotiate();
  r.set_bar<std::uint8_t>(offsetof(Common, queue_size), 4);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_size)), 8);
  r.set_bar<std::uint32_t>(offsetof(Common, queue_size), 4);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_size)), 8);
  r.set_bar<std::uint64_t>(offsetof(Common, device_feature_select), 3);
  EXPECT_EQ(r.bar<std::uint32_t>(offsetof(Common, device_feature_select)), 0U);
  r.set_bar<std::uint16_t>(offsetof(Common, device_status), 0);  // status and generation
  EXPECT_EQ(r.device_status(), agreed);
  r.set_bar<std::uint16_t>(offsetof(Common, queue_select) + 1, 1);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_select)), 0);
  r.set_bar<std::uint32_t>(offsetof(Common, queue_desc) + 2, 0x1000);
  r.set_bar<std::uint16_t>(offsetof(Common, queue_desc), 0x1000);
  EXPECT_EQ(r.bar<std::uint64_t>(offsetof(Common, queue_desc)), 0U);
  const std::array<std::byte, 64> zeros{};
  EXPECT_TRUE(r.function->write_region(0, 0, zeros));
  EXPECT_EQ(r.device_status(), agreed);
}

TEST(CommonConfig, AddressesTakeHalvesAndWholes) {  // D-LAY-1
  Rig r;
  r.negotiate();
  for (const std::size_t field :
       {offsetof(Common, queue_desc), offsetof(Common, queue_driver), offsetof(Common, queue_device)}) {
    r.set_bar<std::uint32_t>(field + 4, 0x12);
    r.set_bar<std::uint32_t>(field, 0x3456'7000);
    EXPECT_EQ(r.bar<std::uint64_t>(field), 0x12'3456'7000U);
    EXPECT_EQ(r.bar<std::uint32_t>(field + 4), 0x12U);
    r.set_bar<std::uint64_t>(field, 0x9'8765'4000U);
    EXPECT_EQ(r.bar<std::uint64_t>(field), 0x9'8765'4000U);
  }
}

TEST(CommonConfig, AQueueThatIsNotThereReadsAsZero) {  // VD-36; D-CC-14
  Rig r;
  r.negotiate();
  for (const std::uint16_t queue : {2, 3, 0x8000, 0xffff}) {
    r.select(queue);
    EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_select)), queue);
    r.set_bar<std::uint16_t>(offsetof(Common, queue_size), 4);
    r.set_bar<std::uint16_t>(offsetof(Common, queue_msix_vector), 1);
    r.set_bar<std::uint64_t>(offsetof(Common, queue_desc), 0x1000);
    r.set_bar<std::uint16_t>(offsetof(Common, queue_enable), 1);
    r.set_bar<std::uint16_t>(offsetof(Common, queue_reset), 1);
    EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_size)), 0);
    EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_msix_vector)), 0xffff);
    EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_enable)), 0);
    EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_notify_off)), 0);
    EXPECT_EQ(r.bar<std::uint64_t>(offsetof(Common, queue_desc)), 0U);
    EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_reset)), 0);
  }
  EXPECT_EQ(r.device_status(), agreed);
}

TEST(CommonConfig, IllegalQueueSizesLeaveTheRegisterAlone) {  // VD-34; D-CC-15
  Rig r;
  r.negotiate();
  for (const std::uint16_t size : {0, 3, 6, 9, 16, 0x8000, 0xffff}) {
    r.set_bar<std::uint16_t>(offsetof(Common, queue_size), size);
    EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_size)), 8) << size;
  }
  r.set_bar<std::uint16_t>(offsetof(Common, queue_size), 4);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_size)), 4);
}

TEST(CommonConfig, APackedQueueMayHaveAnySize) {
  Rig r({.core = {.packed = true}});
  r.negotiate({Feature::ring_packed});
  r.set_bar<std::uint16_t>(offsetof(Common, queue_size), 5);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_size)), 5);
}

TEST(CommonConfig, AnEnabledQueueTakesNoNewValues) {  // VD-35
  Rig r;
  r.start();
  r.select(0);
  r.set_bar<std::uint16_t>(offsetof(Common, queue_size), 4);
  r.set_bar<std::uint32_t>(offsetof(Common, queue_desc), 0x7000);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_size)), 8);
  EXPECT_EQ(r.bar<std::uint32_t>(offsetof(Common, queue_desc)), 0x10'0000U);
}

TEST(CommonConfig, AMisalignedOrWrappingRingBreaksTheDeviceAtEnable) {  // VD-37
  for (const std::uint64_t address : {UINT64_C(0x10'0008), UINT64_C(0xffff'ffff'ffff'fff0)}) {
    Rig r;
    r.negotiate();
    r.set_bar<std::uint64_t>(offsetof(Common, queue_desc), address);
    r.set_bar<std::uint16_t>(offsetof(Common, queue_enable), 1);
    EXPECT_NE(r.device_status() & status::needs_reset, 0) << address;
    EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_enable)), 0);
  }
}

TEST(CommonConfig, DriverOkWithoutRingMemoryNeedsAReset) {  // VD-38
  Rig r;
  r.negotiate();
  r.set_up_queue(0);
  r.function->unmap_all([](const Status&) {});
  r.loop.run_until_idle();
  r.set_status(live);
  EXPECT_EQ(r.device_status(), agreed | status::needs_reset);
}

TEST(CommonConfig, OnlyAOneEnablesAQueue) {  // VD-39
  Rig r;
  r.negotiate();
  for (const std::uint16_t value : {0, 2, 3, 0xffff}) {
    r.set_bar<std::uint16_t>(offsetof(Common, queue_enable), value);
    EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_enable)), 0);
  }
  r.set_up_queue(0);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_enable)), 1);
  r.set_bar<std::uint16_t>(offsetof(Common, queue_enable), 0);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_enable)), 1);
}

// Device configuration.

TEST(DeviceConfig, ReadsAreByteAccurateAndAllOnesBeyondTheEnd) {  // VD-48; D-CFG-1
  Rig r;
  EXPECT_EQ(r.bar<std::uint32_t>(Function::device_at), 0x04030201U);
  EXPECT_EQ(r.bar<std::uint16_t>(Function::device_at + 3), 0x0504);
  EXPECT_EQ(r.bar<std::uint64_t>(Function::device_at + 12), 0xffff'ffff'100f'0e0dU);
  EXPECT_EQ(r.bar<std::uint8_t>(Function::device_at + 16), 0xff);
}

TEST(DeviceConfig, WritesReachTheDeviceOnlyInsideTheSpace) {  // VD-48
  Rig r;
  r.start();
  r.set_bar<std::uint32_t>(Function::device_at + 4, 1);
  r.set_bar<std::uint32_t>(Function::device_at + 14, 1);
  r.set_bar<std::uint32_t>(Function::device_at + 16, 1);
  EXPECT_EQ(r.device->config_writes, (std::vector<std::pair<std::uint32_t, std::size_t>>{{4, 4}}));
}

TEST(DeviceConfig, TheGenerationDiffersAfterAChange) {  // D-CC-6
  Rig r;
  r.start();
  const auto before = r.bar<std::uint8_t>(offsetof(Common, config_generation));
  r.device->change_config(0, std::byte{9});
  r.bar<std::uint8_t>(Function::device_at);
  EXPECT_NE(r.bar<std::uint8_t>(offsetof(Common, config_generation)), before);
}

// The access window.

class Window {
 public:
  explicit Window(Rig& rig) : r(rig), at(rig.capability(9, spec::Structure::pci_cfg)) {}
  void aim(std::uint8_t bar, std::uint32_t offset, std::uint32_t length) {
    r.set_config<std::uint8_t>(at + 4U, bar);
    r.set_config<std::uint32_t>(at + 8U, offset);
    r.set_config<std::uint32_t>(at + 12U, length);
  }
  std::uint32_t read() { return r.config<std::uint32_t>(at + 16U); }
  void write(std::uint32_t value) { r.set_config<std::uint32_t>(at + 16U, value); }

 private:
  Rig& r;
  std::uint8_t at;
};

TEST(AccessWindow, ReadsAndWritesAsTheBarDoes) {  // D-PCFG-2, 3
  Rig r;
  Window window(r);
  window.aim(0, offsetof(Common, device_status), 1);
  window.write(status::acknowledge);
  EXPECT_EQ(r.device_status(), status::acknowledge);
  EXPECT_EQ(window.read() & 0xff, status::acknowledge);
  window.aim(0, offsetof(Common, queue_select), 2);
  window.write(1);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_select)), 1);
  window.aim(0, Function::device_at + 4, 4);
  EXPECT_EQ(window.read(), 0x08070605U);
}

TEST(AccessWindow, KicksAndClearsTheIsr) {
  Rig r;
  r.enable_intx();
  r.start();
  Window window(r);
  r.publish(0, 0, 1);
  window.aim(0, Function::notify_at, 2);
  window.write(0);
  r.loop.run_until_idle();
  EXPECT_EQ(r.answer(0, 0), 2U);
  window.aim(0, Function::isr_at, 1);
  EXPECT_EQ(window.read() & 0xff, spec::isr::queue);
  EXPECT_EQ(r.bar<std::uint8_t>(Function::isr_at), 0);
}

TEST(AccessWindow, WhatDoesNotFitReadsAsZeroAndIsDropped) {  // VD-49
  Rig r;
  r.set_status(status::acknowledge);
  Window window(r);
  const struct {
    std::uint8_t bar;
    std::uint32_t offset, length;
  } bad[] = {{1, 0, 4},      {2, 0, 4},      {5, 0, 4},      {0xff, 0, 4},   {0, 0x14, 0},
             {0, 0x14, 3},   {0, 0x14, 8},   {0, 0x16, 4},   {0, 0x40, 4},   {0, 0xfffffffc, 4},
             {0, 0x1001, 1}, {0, 0x3008, 4}, {0, 0x2010, 4}, {0, 0x1000, 2}, {0, 0x14, 0xffffffff},
             {0, 0x4000, 4}};
  for (const auto& [bar, offset, length] : bad) {
    window.aim(bar, offset, length);
    window.write(0);
    EXPECT_EQ(window.read(), 0U) << unsigned{bar} << ' ' << offset << ' ' << length;
  }
  EXPECT_EQ(r.device_status(), status::acknowledge);
}

}  // namespace
}  // namespace outboard::virtio_pci
