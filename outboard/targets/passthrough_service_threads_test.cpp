// A disk of this process, driven through a handle, re-exported over vfio-user, and driven again by the driver that knows
// nothing of it: device, Passthrough, socket, driver. The service has a thread of its own.

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <thread>

#include <outboard/devices/blk/driver.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/targets/passthrough_service.hpp>
#include <outboard/targets/target.hpp>
#include <outboard/testing/fake_handle.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/vfio_user/client.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tests/support/fake_vfio.hpp>
#include <tests/support/plain_function.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::targets {
namespace {

class PassthroughService : public ::testing::Test {
 protected:
  void serve(std::unique_ptr<pci::Handle> handle, const std::string& text = {}) {
    auto options = text.empty() ? OptionSet() : OptionSet::parse(text).value();
    auto service = serve_passthrough(std::move(handle), std::move(options), listener(), {});
    ASSERT_TRUE(service) << service.error().message();
    service_ = std::move(*service);
    thread_ = std::thread([this] { ended_ = service_->run(); });
  }
  void serve_disk(const std::string& text = {}) {
    auto disk = open("local:blk,ram,size=1M,queues=2");
    ASSERT_TRUE(disk) << disk.error().message();
    serve(std::move(*disk), text);
  }
  void TearDown() override { stop(); }
  void stop() {
    if (!thread_.joinable()) return;
    service_->stop();
    thread_.join();
  }
  std::string listener() const { return "vfio-user:" + dir_.path("s"); }
  std::unique_ptr<pci::Handle> connect() {
    auto handle = open(listener());
    EXPECT_TRUE(handle) << handle.error().message();
    return std::move(*handle);
  }
  static void write_and_read_back(pci::Handle& handle) {
    auto disk = blk::Driver::start(handle, {.queues = 2});
    ASSERT_TRUE(disk) << disk.error().message();
    auto written = disk->dma().allocate(65536), read = disk->dma().allocate(65536);
    ASSERT_TRUE(written && read);
    for (std::size_t i = 0; i < written->size(); ++i) written->bytes()[i] = static_cast<std::byte>(i * 7 + i / 512);
    ASSERT_TRUE(disk->write(blk::Sector{16}, *written));
    ASSERT_TRUE(disk->flush());
    ASSERT_TRUE(disk->read(blk::Sector{16}, *read));
    EXPECT_EQ(std::memcmp(written->data(), read->data(), read->size()), 0);
  }

  testing::TempDir dir_;
  std::unique_ptr<Service> service_;
  std::thread thread_;
  Status ended_;
};

TEST_F(PassthroughService, ADiskIsDrivenThroughTwoHandles) {
  serve_disk();
  EXPECT_EQ(service_->description(), "local:blk,ram,size=1M,queues=2 (1af4:1042)");
  const auto handle = connect();
  EXPECT_EQ(*handle->msix_vector_count(), 3u);
  write_and_read_back(*handle);
}

TEST_F(PassthroughService, OneClientAfterAnotherFindsTheDeviceAsAtPowerOn) {
  serve_disk();
  for (int client = 0; client < 3; ++client) {
    const auto handle = connect();
    EXPECT_EQ(handle->config().read<pci::Command>()->value(), 0) << client;
    write_and_read_back(*handle);
    ASSERT_TRUE(handle->enable_bus_master());  // and leaves without a word
  }
}

TEST_F(PassthroughService, AResetInBetweenIsSurvivedByTheDriver) {
  serve_disk();
  const auto handle = connect();
  write_and_read_back(*handle);
  EXPECT_TRUE(handle->reset());
  write_and_read_back(*handle);
}

TEST_F(PassthroughService, ATrustedClientRingsTheDevicesOwnDoorbells) {
  serve_disk("trust-client");
  const auto handle = connect();
  EXPECT_EQ(handle->io_eventfds(0)->size(), 2u);
  write_and_read_back(*handle);
}

TEST_F(PassthroughService, AnUntrustedOneIsGivenNoneOfThem) {
  serve_disk();
  EXPECT_TRUE(connect()->io_eventfds(0)->empty());
}

TEST_F(PassthroughService, ItCanBeExportedOnceMore) {
  serve_disk();
  const std::string path = dir_.path("t");
  auto second = serve_passthrough(connect(), OptionSet(), "vfio-user:" + path, {});
  ASSERT_TRUE(second) << second.error().message();
  std::thread runner([&] { EXPECT_TRUE((*second)->run()); });
  {
    auto handle = open("vfio-user:" + path);
    EXPECT_TRUE(handle) << handle.error().message();
    if (handle) write_and_read_back(**handle);
  }
  (*second)->stop();
  runner.join();
  second->reset();
  stop();
}

TEST_F(PassthroughService, WhenTheServerBehindItEndsSoDoesIt) {
  serve_disk();
  const std::string path = dir_.path("t");
  auto second = serve_passthrough(connect(), OptionSet(), "vfio-user:" + path, {});
  ASSERT_TRUE(second);
  Status ended;
  std::thread runner([&] { ended = (*second)->run(); });
  stop();
  service_.reset();
  runner.join();
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code(), ENODEV);
  EXPECT_NE(ended.error().message().find("the device has gone"), std::string::npos);
}

TEST(PassthroughServiceWithoutAnIommu, IsRefusedForThatWouldBeTheWholeMachine) {
  testing::ManualLoop loop;
  testing::FakeVfio kernel;
  kernel.no_iommu_mode = true;
  auto function = testing::PlainFunction::create(loop);
  ASSERT_TRUE(function);
  auto& device = kernel.add({.cdev = {}}, std::move(*function), [&] { loop.run_until_idle(); });
  auto options = kernel.options();
  options.interface.interface = vfio::Interface::no_iommu;
  auto handle = vfio::Handle::open(device.options().address, options);
  ASSERT_TRUE(handle) << handle.error().message();
  for (const char* const text : {"spin=1", "trust-client"}) {
    const auto service = serve_passthrough(std::move(*handle), *OptionSet::parse(text), "vfio-user:/x", {});
    ASSERT_FALSE(service);
    EXPECT_EQ(service.error().code(), EPERM) << text;
    EXPECT_NE(service.error().message().find("IOMMU"), std::string::npos);
    handle = vfio::Handle::open(device.options().address, options);
    ASSERT_TRUE(handle) << handle.error().message();
  }
}

struct Refusal {
  const char* name;
  const char* text;
  const char* listener;
  int code;
};

class PassthroughServiceRefuses : public ::testing::TestWithParam<Refusal> {};

TEST_P(PassthroughServiceRefuses, WhatCannotBe) {
  const auto service = serve_passthrough(std::make_unique<testing::FakeHandle>(), *OptionSet::parse(GetParam().text),
                                         GetParam().listener, {});
  ASSERT_FALSE(service);
  EXPECT_EQ(service.error().code(), GetParam().code) << service.error().message();
}

INSTANTIATE_TEST_SUITE_P(, PassthroughServiceRefuses,
                         ::testing::Values(Refusal{"TooLongADeadline", "unplug-deadline=10", "vfio-user:/x", ERANGE},
                                           Refusal{"AnUnknownWord", "trust-cleint", "vfio-user:/x", EINVAL},
                                           Refusal{"TheVdpaBus", "spin=1", "vduse:x", ENOTSUP},
                                           Refusal{"NoListener", "spin=1", "tcp:x", EINVAL}),
                         [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace outboard::targets
