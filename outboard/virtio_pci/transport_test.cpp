// The driver's side against functions that lie: docs/spec-map.md, VR-n.

#include <outboard/virtio_pci/transport.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>

#include <outboard/testing/fake_clock.hpp>
#include <outboard/testing/plain_dma.hpp>
#include <tests/support/virtio_function_rig.hpp>

namespace outboard::virtio_pci {
namespace {

using Common = spec::CommonConfig;
using Rig = testing::VirtioFunctionRig;
using virtio::Feature;
using virtio::Features;

/// A handle straight onto a function, through which the test can change what the driver reads.
class LyingHandle final : public pci::Handle {
 public:
  explicit LyingHandle(Rig& rig) : rig_(rig) {}

  /// Called with each read's answer, to change it.
  std::function<void(unsigned region, std::uint64_t offset, MutableBytes)> lie;
  bool has_eventfds = false;
  std::optional<std::uint64_t> mapped_from;  ///< of BAR 0, to its end
  std::vector<std::pair<std::uint64_t, std::vector<std::byte>>> posted;

  /// Makes every read of this many bytes at a place of BAR 0 return `value`.
  template <typename T>
  void lie_at(std::uint64_t offset, T value) {
    lie = [offset, value](unsigned region, std::uint64_t at, MutableBytes bytes) {
      const EndianInteger<T, std::endian::little> stored = value;
      if (region == 0 && at == offset) std::memcpy(bytes.data(), &stored, std::min(sizeof stored, bytes.size()));
    };
  }
  /// The same for a field of the first virtio capability of a type.
  template <typename T>
  void lie_in(spec::Structure type, std::uint64_t field, T value) {
    const std::uint64_t start = rig_.capability(9, type) + field;
    lie = [start, value](unsigned region, std::uint64_t at, MutableBytes bytes) {
      if (region != pci::region::config) return;
      const EndianInteger<T, std::endian::little> stored = value;
      const Bytes lies = as_bytes_of(stored);
      for (std::size_t i = 0; i < bytes.size(); ++i)
        if (at + i >= start && at + i < start + lies.size()) bytes[i] = lies[at + i - start];
    };
  }

  std::string name() const override { return "liar"; }
  Result<pci::RegionInfo> region(unsigned index) override { return rig_.function->region(index); }
  Result<pci::InterruptInfo> interrupts(pci::InterruptKind kind) override { return rig_.function->interrupts(kind); }
  Status read_region(unsigned region, std::uint64_t offset, MutableBytes into) override {
    OUTBOARD_CHECK(rig_.function->read_region(region, offset, into));
    if (lie) lie(region, offset, into);
    return {};
  }
  Status write_region(unsigned region, std::uint64_t offset, Bytes from) override {
    return rig_.function->write_region(region, offset, from);
  }
  Status post_write(unsigned region, std::uint64_t offset, Bytes from) override {
    posted.emplace_back(offset, std::vector<std::byte>(from.begin(), from.end()));
    return write_region(region, offset, from);
  }
  Result<pci::Window> map_window(unsigned region, std::uint64_t offset, std::uint64_t length) override {
    if (region != 0 || !mapped_from || offset < *mapped_from) return Error(ENOTSUP, "not mapped");
    return pci::Window(memory_.data() + offset, length);
  }
  Result<std::vector<pci::IoEventFd>> io_eventfds(unsigned region) override {
    return has_eventfds ? rig_.function->io_eventfds(region) : std::vector<pci::IoEventFd>{};
  }
  memory::DmaSpace& dma() override { return dma_; }
  memory::DmaMapper& dma_mapper() override { std::abort(); }
  void revoke() override {}
  Status reset() override { return {}; }
  Status attach(Loop&) override { return {}; }
  bool gone() const override { return false; }
  std::byte* mapped(std::uint64_t offset) { return memory_.data() + offset; }
  using Handle::raise;

  Status bind_interrupts(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) override {
    std::vector<EventFd> copies;
    for (const EventFd& each : eventfds) copies.push_back(each.duplicate().value());
    return rig_.function->bind_interrupts(kind, start, std::move(copies));
  }
  Status disable_interrupts(pci::InterruptKind kind) override { return rig_.function->disable_interrupts(kind); }
  Status unmask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) override {
    return rig_.function->unmask_interrupts(kind, start, count);
  }

 private:
  Rig& rig_;
  testing::PlainDma dma_;
  alignas(8) std::array<std::byte, 0x4000> memory_{};
};

class HostileFunction : public ::testing::Test {
 protected:
  explicit HostileFunction(Function::Options options = {}) : rig(std::move(options)) {}

  int open_error() {
    const auto opened = Transport::open(handle);
    return opened ? 0 : opened.error().code();
  }
  std::unique_ptr<Transport> open() {
    return Transport::open(handle, {.clock = &clock,
                                    .wait =
                                        [this](Duration interval) {
                                          ++waits;
                                          clock.advance(interval);
                                        }})
        .value();
  }
  /// A queue set up after negotiation, with addresses that mean nothing.
  Result<virtio::Doorbell> set_up(Transport& transport, std::optional<unsigned> vector = {}) {
    EXPECT_TRUE(virtio::negotiate(transport, {}));
    return transport.setup_queue(0, {.size = 8,
                                     .descriptors = memory::Iova{0x1000},
                                     .driver = memory::Iova{0x2000},
                                     .device = memory::Iova{0x3000},
                                     .vector = vector});
  }

  Rig rig;
  LyingHandle handle{rig};
  testing::FakeClock clock;
  unsigned waits = 0;
};

TEST_F(HostileFunction, AnHonestOneIsOpened) { EXPECT_EQ(open_error(), 0); }

TEST_F(HostileFunction, WhatIsNotModernVirtioIsRefused) {
  const auto claim = [&](std::uint16_t vendor, std::uint16_t device) {
    handle.lie = [=](unsigned region, std::uint64_t at, MutableBytes bytes) {
      const le16 value = at == 0 ? vendor : device;
      if (region == pci::region::config && at <= 2 && bytes.size() == 2) std::memcpy(bytes.data(), &value, 2);
    };
    return open_error();
  };
  EXPECT_EQ(claim(0x8086, 0x107f), ENODEV);
  EXPECT_EQ(claim(0x1af4, 0x1040), ENODEV);
  EXPECT_EQ(claim(0x1af4, 0x1080), ENODEV);
  EXPECT_EQ(claim(0x1af4, 0x1001), ENOTSUP) << "transitional";
  EXPECT_EQ(claim(0x1af4, 0x1042), 0);
}

// VR-12. The capability is ignored, and without it there is nothing to drive.
TEST_F(HostileFunction, ACapabilityThatLeadsNowhereIsIgnored) {
  struct {
    std::size_t field;
    std::uint32_t value;
  } const lies[] = {{offsetof(spec::Capability, bar), 6},
                    {offsetof(spec::Capability, bar), 5},
                    {offsetof(spec::Capability, bar), 0xff},
                    {offsetof(spec::Capability, cap_len), 15},
                    {offsetof(spec::Capability, cfg_type), 77}};
  for (const auto type : {spec::Structure::common, spec::Structure::notify, spec::Structure::isr}) {
    for (const auto& [field, value] : lies) {
      handle.lie_in(type, field, static_cast<std::uint8_t>(value));
      EXPECT_EQ(open_error(), ENODEV) << static_cast<int>(type) << ' ' << field << ' ' << value;
    }
    for (const std::uint32_t offset : {0x4000U, 0xffffffffU, 0x80000000U}) {
      handle.lie_in(type, offsetof(spec::Capability, offset), offset);
      EXPECT_EQ(open_error(), ENODEV) << offset;
    }
    for (const std::uint32_t length : {0U, 0x8000U, 0xffffffffU}) {
      handle.lie_in(type, offsetof(spec::Capability, length), length);
      EXPECT_EQ(open_error(), ENODEV) << length;
    }
  }
  handle.lie_in<std::uint32_t>(spec::Structure::common, offsetof(spec::Capability, offset), 2);
  EXPECT_EQ(open_error(), ENODEV) << "misaligned";
  handle.lie_in<std::uint32_t>(spec::Structure::common, offsetof(spec::Capability, length), 0x37);
  EXPECT_EQ(open_error(), ENODEV) << "too short";
  handle.lie_in<std::uint32_t>(spec::Structure::device, offsetof(spec::Capability, length), 0x80000000);
  EXPECT_EQ(open_error(), 0) << "only the device configuration is lost";
  EXPECT_EQ(open()->config_size(), 0U);
}

TEST_F(HostileFunction, AnIoBarIsNotForStructures) {
  handle.lie = [](unsigned region, std::uint64_t at, MutableBytes bytes) {
    if (region == pci::region::config && at == 0x10) bytes[0] |= std::byte{1};
  };
  EXPECT_EQ(open_error(), ENODEV);
}

// VR-13.
TEST_F(HostileFunction, ACapabilityListThatLoopsIsAnError) {
  const std::uint8_t at = rig.capability(9, spec::Structure::isr);
  handle.lie_in(spec::Structure::isr, offsetof(spec::Capability, cap_next), at);
  EXPECT_EQ(open_error(), EPROTO);
  handle.lie_in<std::uint8_t>(spec::Structure::isr, offsetof(spec::Capability, cap_next), 0x20);
  EXPECT_EQ(open_error(), EPROTO) << "points into the header";
}

TEST_F(HostileFunction, AMultiplierThatIsNoPowerOfTwoIsIgnoredWithItsCapability) {
  for (const std::uint32_t multiplier : {1U, 3U, 6U, 0xffffffffU}) {
    handle.lie_in(spec::Structure::notify, spec::notify_off_multiplier, multiplier);
    EXPECT_EQ(open_error(), ENODEV) << multiplier;
  }
  handle.lie_in<std::uint32_t>(spec::Structure::notify, spec::notify_off_multiplier, 0);
  EXPECT_EQ(open_error(), 0);
}

// VR-8.
TEST_F(HostileFunction, AGenerationThatNeverRestsIsGivenUpOn) {
  const auto transport = open();
  unsigned reads = 0;
  handle.lie = [&](unsigned region, std::uint64_t at, MutableBytes bytes) {
    if (region == 0 && at == offsetof(Common, config_generation)) bytes[0] = static_cast<std::byte>(++reads);
  };
  le64 wide;
  EXPECT_EQ(transport->read_config(0, as_writable_bytes_of(wide)).error().code(), EAGAIN);
  EXPECT_EQ(reads, 200U);
  le32 single;
  EXPECT_TRUE(transport->read_config(0, as_writable_bytes_of(single))) << "one field cannot be torn";
}

// VR-9.
TEST_F(HostileFunction, FeaturesAreReadOnce) {
  const auto transport = open();
  const Features first = transport->device_features().value();
  handle.lie_at<std::uint32_t>(offsetof(Common, device_feature), 0);
  EXPECT_EQ(transport->device_features().value(), first);
}

// VR-10 is in virtio/transport_test.cpp.

// VR-11.
TEST_F(HostileFunction, AResetThatNeverEndsTimesOut) {
  const auto transport = open();
  handle.lie_at<std::uint8_t>(offsetof(Common, device_status), 0x0f);
  const auto reset = transport->reset();
  ASSERT_FALSE(reset);
  EXPECT_EQ(reset.error().code(), ETIMEDOUT);
  EXPECT_GT(waits, 0U);
  EXPECT_LT(waits, 2000U);
}

TEST_F(HostileFunction, AQueueResetThatNeverEndsTimesOut) {
  const auto transport = open();
  ASSERT_TRUE(virtio::negotiate(*transport, {Feature::ring_reset}));
  handle.lie_at<std::uint16_t>(offsetof(Common, queue_reset), 1);
  EXPECT_EQ(transport->reset_queue(0).error().code(), ETIMEDOUT);
}

TEST_F(HostileFunction, AQueueResetThatWasNotAgreedOnIsTheDriversMistake) {
  const auto transport = open();
  ASSERT_TRUE(virtio::negotiate(*transport, {}));
  EXPECT_EQ(transport->reset_queue(0).error().code(), ENOTSUP);
  EXPECT_EQ(waits, 0U);
}

// VR-12: what it has is shorter than what it offers needs.
TEST_F(HostileFunction, AQueueResetRegisterBeyondTheStructureIsNotTouched) {
  handle.lie_in<std::uint32_t>(spec::Structure::common, offsetof(spec::Capability, length),
                               offsetof(Common, queue_reset));
  const auto transport = open();
  ASSERT_TRUE(virtio::negotiate(*transport, {Feature::ring_reset}));
  bool touched = false;
  handle.lie = [&](unsigned region, std::uint64_t at, MutableBytes) {
    touched = touched || (region == 0 && at >= offsetof(Common, queue_reset));
  };
  EXPECT_EQ(transport->reset_queue(0).error().code(), EPROTO);
  EXPECT_FALSE(touched);
}

// VR-14.
TEST_F(HostileFunction, ADoorbellOutsideItsStructureIsRefused) {
  const auto transport = open();
  for (const std::uint16_t offset : {2, 0x100, 0xffff}) {
    handle.lie_at(offsetof(Common, queue_notify_off), offset);
    EXPECT_EQ(set_up(*transport).error().code(), EPROTO) << offset;
  }
}

// VR-15.
TEST_F(HostileFunction, AQueueThatDoesNotTakeItsSizeIsRefused) {
  const auto transport = open();
  handle.lie_at<std::uint16_t>(offsetof(Common, queue_size), 16);
  EXPECT_EQ(set_up(*transport).error().code(), EPROTO);
}

TEST_F(HostileFunction, AQueueThatDoesNotGetEnabledIsRefused) {
  const auto transport = open();
  handle.lie_at<std::uint16_t>(offsetof(Common, queue_enable), 0);
  EXPECT_EQ(set_up(*transport).error().code(), EPROTO);
  handle.lie_at<std::uint16_t>(offsetof(Common, queue_enable), 1);
  EXPECT_EQ(set_up(*transport).error().code(), EBUSY);
}

// VR-22.
TEST_F(HostileFunction, AllOnesMeanThatTheDeviceIsGone) {
  const auto transport = open();
  handle.lie = [](unsigned region, std::uint64_t, MutableBytes bytes) {
    if (region == 0) std::ranges::fill(bytes, std::byte{0xff});
  };
  EXPECT_EQ(transport->status().error().code(), ENODEV);
  EXPECT_TRUE(transport->gone());
  EXPECT_EQ(transport->reset().error().code(), ENODEV) << "and not after a deadline";
  EXPECT_EQ(waits, 0U);
}

TEST_F(HostileFunction, AllOnesInTheFeaturesTooMeanThatTheDeviceIsGone) {
  const auto transport = open();
  handle.lie_at<std::uint32_t>(offsetof(Common, device_feature), UINT32_MAX);
  EXPECT_EQ(transport->device_features().error().code(), ENODEV);
}

// VR-23.
TEST_F(HostileFunction, ARefusedVectorIsReported) {
  const auto transport = open();
  ASSERT_EQ(transport->enable_vectors(3).value(), 3U);
  handle.lie_at(offsetof(Common, queue_msix_vector), spec::no_vector);
  EXPECT_EQ(set_up(*transport, 1U).error().code(), ENOSPC);
  EXPECT_TRUE(set_up(*transport));
  handle.lie_at(offsetof(Common, config_msix_vector), spec::no_vector);
  EXPECT_EQ(transport->set_config_vector(0).error().code(), ENOSPC);
  EXPECT_TRUE(transport->set_config_vector({}));
}

TEST_F(HostileFunction, ThatGoesIsToldOf) {
  unsigned told = 0;
  open()->on_gone([&] { ++told; });  // whether or not the transport is still there
  handle.raise(pci::Event::error);
  EXPECT_EQ(told, 0U);
  handle.raise(pci::Event::gone);
  EXPECT_EQ(told, 1U);
}

TEST_F(HostileFunction, AVectorBeyondThoseEnabledIsTheDriversMistake) {
  const auto transport = open();
  ASSERT_EQ(transport->enable_vectors(1).value(), 1U);
  EXPECT_EQ(set_up(*transport, 1U).error().code(), EINVAL);
  EXPECT_EQ(transport->enable_vectors(1).error().code(), EBUSY);
}

// How doorbells are rung.

TEST_F(HostileFunction, ADoorbellIsPostedWhereThereIsNothingShorter) {
  const auto transport = open();
  const auto bell = set_up(*transport);
  ASSERT_TRUE(bell);
  EXPECT_EQ(bell->kind(), virtio::Doorbell::Kind::call);
  bell->ring(0x0100);
  EXPECT_EQ(handle.posted, (std::vector<std::pair<std::uint64_t, std::vector<std::byte>>>{
                               {Function::notify_at, {std::byte{0}, std::byte{1}}}}));
}

TEST_F(HostileFunction, ADoorbellIsAnEventfdWhereThereIsOne) {
  handle.has_eventfds = true;
  const auto transport = open();
  const auto bell = set_up(*transport);
  ASSERT_TRUE(bell);
  EXPECT_EQ(bell->kind(), virtio::Doorbell::Kind::eventfd);
  bell->ring(0);
  EXPECT_EQ(rig.function->io_eventfds(0)[0].fd->drain(), 1U);
}

TEST_F(HostileFunction, ADoorbellIsAStoreWhereItIsMapped) {
  handle.has_eventfds = true;
  handle.mapped_from = Function::notify_at;
  const auto transport = open();
  const auto bell = set_up(*transport);
  ASSERT_TRUE(bell);
  EXPECT_EQ(bell->kind(), virtio::Doorbell::Kind::memory);
  bell->ring(7);
  le16 stored;
  std::memcpy(&stored, handle.mapped(Function::notify_at), 2);
  EXPECT_EQ(stored, 7);
}

class WithNotificationData : public HostileFunction {
 protected:
  WithNotificationData() : HostileFunction({.core = {.notification_data = true}}) {}
  virtio::Doorbell bell(Transport& transport) {
    EXPECT_TRUE(virtio::negotiate(transport, {Feature::notification_data}));
    return transport
        .setup_queue(1, {.size = 4,
                         .descriptors = memory::Iova{0x1000},
                         .driver = memory::Iova{0x2000},
                         .device = memory::Iova{0x3000}})
        .value();
  }
};

TEST_F(WithNotificationData, TheDoorbellIsFourBytesWide) {
  auto transport = open();
  bell(*transport).ring(spec::notification(1, 0x8002));
  ASSERT_EQ(handle.posted.size(), 1U);
  EXPECT_EQ(handle.posted[0].first, Function::notify_at + 4U);
  EXPECT_EQ(handle.posted[0].second,
            (std::vector<std::byte>{std::byte{1}, std::byte{0}, std::byte{2}, std::byte{0x80}}));

  handle.mapped_from = Function::notify_at;
  transport = open();
  const auto mapped = bell(*transport);
  EXPECT_EQ(mapped.kind(), virtio::Doorbell::Kind::memory32);
  mapped.ring(spec::notification(1, 3));
  le32 stored;
  std::memcpy(&stored, handle.mapped(Function::notify_at + 4), 4);
  EXPECT_EQ(stored, 0x0003'0001U);
}

}  // namespace
}  // namespace outboard::virtio_pci
