#include <outboard/vduse/control.hpp>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/virtio/features.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::vduse {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t needed = UINT64_C(3) << 32;  // VERSION_1, ACCESS_PLATFORM

/// A control node that answers as it is told, and keeps what it was asked.
struct Script {
  struct Call {
    std::uint32_t request;
    std::vector<std::byte> argument;
  };
  std::vector<Call> calls;
  std::uint64_t features = 0;  ///< messages that the kernel can send (7.3)
  std::map<std::uint32_t, int> answers;
};

class ScriptedFile final : public NodeFile {
 public:
  explicit ScriptedFile(Script& script) : script_(script) {}
  int fd() const override { return -1; }
  int control(std::uint32_t request, void* argument) override {
    const auto* bytes = static_cast<const std::byte*>(argument);
    script_.calls.push_back({request, {bytes, bytes + (request >> 16 & 0x3fff)}});
    if (request == spec::ioctl::get_features) std::memcpy(argument, &script_.features, sizeof script_.features);
    const auto found = script_.answers.find(request);
    return found == script_.answers.end() ? 0 : found->second;
  }
  ssize_t read(MutableBytes) override { return -EAGAIN; }
  ssize_t write(Bytes) override { return -EINVAL; }

 private:
  Script& script_;
};

DeviceShape blk() {
  return {.name = "blk0",
          .device_id = 2,
          .vendor_id = 0x1af4,
          .features = needed,
          .queue_sizes = {256, 256},
          .config = std::vector<std::byte>(60, std::byte{7})};
}

class ControlTest : public ::testing::Test {
 protected:
  Result<Control> open(std::uint64_t version = spec::api_version_0) {
    return Control::on(std::make_unique<ScriptedFile>(script), version, folder.path());
  }
  Status create_answered(int code, const DeviceShape& shape = blk()) {
    script.answers[spec::ioctl::create_dev] = -code;
    return open()->create(shape);
  }
  Status destroy_answered(int code) {
    script.answers[spec::ioctl::destroy_dev] = -code;
    return open()->destroy("blk0");
  }

  testing::TempDir folder;
  Script script;
};

TEST_F(ControlTest, TheApiVersionIsSetBeforeAnythingElse) {
  ASSERT_TRUE(open()->create(blk()));
  ASSERT_EQ(script.calls.size(), 3U);
  EXPECT_EQ(script.calls[0].request, spec::ioctl::set_api_version);
  EXPECT_EQ(script.calls[2].request, spec::ioctl::create_dev);
}

TEST_F(ControlTest, OptionalMessagesAreRequestedBeforeTheDeviceIsMade) {
  script.features = 0xff;
  ASSERT_TRUE(open()->create(blk()));
  ASSERT_EQ(script.calls.size(), 4U);
  EXPECT_EQ(script.calls[2].request, spec::ioctl::set_features);
  std::uint64_t asked = 0;
  std::memcpy(&asked, script.calls[2].argument.data(), sizeof asked);
  EXPECT_EQ(asked, 3U) << "QUEUE_READY and SUSPEND, and nothing that is not known here";
  EXPECT_EQ(script.calls[3].request, spec::ioctl::create_dev);
}

TEST_F(ControlTest, AKernelWithoutThemIsNotAskedFor) {
  script.answers[spec::ioctl::get_features] = -EINVAL;
  ASSERT_TRUE(open());
  EXPECT_EQ(script.calls.size(), 2U);
}

TEST_F(ControlTest, AnApiVersionThatTheKernelDoesNotHaveIsNamed) {
  script.answers[spec::ioctl::set_api_version] = -EINVAL;
  const auto control = open(spec::api_version_1);
  ASSERT_FALSE(control);
  EXPECT_EQ(control.error().code(), EINVAL);
  EXPECT_THAT(control.error().message(), HasSubstr("API version 1"));
}

TEST_F(ControlTest, CreateSendsTheShape) {
  ASSERT_TRUE(open()->create(blk()));
  spec::DeviceConfig sent{};
  std::memcpy(&sent, script.calls.back().argument.data(), sizeof sent);
  EXPECT_STREQ(sent.name.data(), "blk0");
  EXPECT_EQ(sent.device_id, 2U);
  EXPECT_EQ(sent.vendor_id, 0x1af4U);
  EXPECT_EQ(sent.features, needed);
  EXPECT_EQ(sent.vq_num, 2U);
  EXPECT_EQ(sent.config_size, 60U);
  EXPECT_EQ(sent.ngroups, 0U);
}

TEST_F(ControlTest, VDUSE1_NoControlNodeMeansThatTheModuleIsNotLoaded) {
  const auto control = Control::open(spec::api_version_0, folder.path());
  ASSERT_FALSE(control);
  EXPECT_EQ(control.error().code(), ENOENT);
  EXPECT_THAT(control.error().message(), HasSubstr("vduse is not loaded"));
  EXPECT_THAT(control.error().cure(), HasSubstr("modprobe"));
}

TEST_F(ControlTest, VDUSE1_AFileThatIsNoDeviceIsNoControlNode) {
  std::ofstream(folder.path("control")) << "";
  EXPECT_EQ(Control::open(spec::api_version_0, folder.path()).error().code(), ENOENT);
}

TEST_F(ControlTest, VDUSE2_ANetworkDeviceNeedsARightThatIsNamed) {
  EXPECT_EQ(create_answered(EPERM).error().code(), EPERM);
  EXPECT_THAT(create_answered(EPERM).error().message(), HasSubstr("CAP_NET_ADMIN"));
}

TEST_F(ControlTest, VDUSE3_ANameThatIsTakenIsRefusedAndNothingRemoved) {
  const auto done = create_answered(EEXIST);
  EXPECT_EQ(done.error().code(), EEXIST);
  EXPECT_EQ(script.calls.back().request, spec::ioctl::create_dev);
}

TEST_F(ControlTest, VDUSE4_ARefusalWithoutAReasonTellsWhatWasAsked) {
  const auto done = create_answered(EINVAL);
  EXPECT_EQ(done.error().code(), EINVAL);
  EXPECT_THAT(done.error().message(), HasSubstr("60 bytes"));
}

TEST_F(ControlTest, VDUSE5_NoMemoryAndNoNumberLeft) {
  EXPECT_EQ(create_answered(ENOMEM).error().code(), ENOMEM);
  EXPECT_EQ(create_answered(ENOSPC).error().code(), ENOSPC);
}

TEST_F(ControlTest, AFilesystemDeviceThatAnOlderKernelRefuses) {
  DeviceShape fs = blk();
  fs.device_id = 26;
  EXPECT_EQ(create_answered(EINVAL, fs).error().code(), ENOTSUP);
}

TEST_F(ControlTest, VDUSE4_WhatTheKernelWouldRefuseIsRefusedBeforeItIsAsked) {
  const auto refused = [&](auto&& change, const char* says) {
    DeviceShape shape = blk();
    change(shape);
    const auto done = open()->create(shape);
    ASSERT_FALSE(done);
    EXPECT_THAT(done.error().message(), HasSubstr(says));
    EXPECT_NE(script.calls.back().request, spec::ioctl::create_dev);
  };
  refused([](auto& shape) { shape.name = "a/b"; }, "name");
  refused([](auto& shape) { shape.device_id = 63; }, "device ID 63");
  refused([](auto& shape) { shape.features = UINT64_C(1) << 32; }, "ACCESS_PLATFORM");
  refused([](auto& shape) { shape.features = UINT64_C(1) << 33; }, "VERSION_1");
  refused([](auto& shape) { shape.features |= 1U << 11; }, "bit 11");
  refused([](auto& shape) { shape.features |= UINT64_C(1) << 40; }, "bit 40");
  refused([](auto& shape) { shape.queue_sizes.clear(); }, "queues");
  refused([](auto& shape) { shape.queue_sizes[1] = 0; }, "power of two");
  refused([](auto& shape) { shape.queue_sizes[1] = 100; }, "power of two");
  refused([](auto& shape) { shape.groups = 1; }, "API version 0");
  refused([](auto& shape) { shape.config.resize(100000); }, "more than a page");
}

TEST(ControlNames, OnlyWhatAPathAndTheKernelCanHave) {
  for (const char* good : {"blk0", "a", "A.b-c_9", "controls"}) EXPECT_TRUE(check_name(good)) << good;
  for (const char* bad : {"", "control", ".", "..", "a/b", "a b", "\xc3\xa4"}) EXPECT_FALSE(check_name(bad)) << bad;
  EXPECT_TRUE(check_name(std::string(64, 'a')));
  EXPECT_FALSE(check_name(std::string(65, 'a')));
}

TEST(ControlFeatures, NetworkDevicesHaveNoControlQueueAndNothingThatNeedsIt) {
  for (const unsigned bit : {17U, 18U, 22U, 60U}) EXPECT_NE(refused_features(1) & UINT64_C(1) << bit, 0U) << bit;
  for (const unsigned bit : {0U, 5U, 15U, 16U, 32U, 33U, 34U}) EXPECT_EQ(refused_features(1) & UINT64_C(1) << bit, 0U);
}

TEST(ControlFeatures, NoDeviceHasWhatTheBusCannotDo) {
  for (const std::uint32_t id : {1U, 2U, 26U}) {
    EXPECT_NE(refused_features(id) & UINT64_C(1) << 38, 0U);
    EXPECT_NE(refused_features(id) & UINT64_C(1) << 40, 0U);
  }
}

TEST_F(ControlTest, DestroyPassesAPaddedName) {
  ASSERT_TRUE(open()->destroy("blk0"));
  const auto& argument = script.calls.back().argument;
  ASSERT_EQ(argument.size(), 256U);
  EXPECT_STREQ(reinterpret_cast<const char*>(argument.data()), "blk0");
  EXPECT_TRUE(std::all_of(argument.begin() + 4, argument.end(), [](std::byte byte) { return byte == std::byte{}; }));
}

TEST_F(ControlTest, VDUSE48_ADeviceInUseIsReportedAsBusy) {
  EXPECT_EQ(destroy_answered(EBUSY).error().code(), EBUSY);
  EXPECT_THAT(destroy_answered(EBUSY).error().message(), HasSubstr("in use"));
}

TEST_F(ControlTest, VDUSE49_ADeviceThatIsGoneIsToldFromOthers) {
  EXPECT_EQ(destroy_answered(EINVAL).error().code(), ENOENT);
}

}  // namespace
}  // namespace outboard::vduse
