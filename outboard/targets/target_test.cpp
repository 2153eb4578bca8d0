#include <outboard/targets/target.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include <outboard/targets/device_table.hpp>
#include <outboard/targets/service.hpp>
#include <outboard/targets/transport_options.hpp>
#include <outboard/targets/vduse_service.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::targets {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string message_of(std::string_view target) {
  auto handle = open(target);
  return handle ? "opened" : handle.error().message() + " | " + handle.error().cure();
}

TEST(Targets, TextWithoutASchemeIsNoTarget) {
  EXPECT_THAT(message_of("disk.raw"), HasSubstr("'disk.raw' is not a target"));
  EXPECT_THAT(message_of("disk.raw"), HasSubstr("vfio-user:PATH"));
  EXPECT_THAT(message_of("disk.raw"), HasSubstr("local:DEVICE"));
}

TEST(Targets, AnUnknownSchemeIsNamed) {
  EXPECT_THAT(message_of("vfoi-user:/run/blk.sock"), HasSubstr("unknown kind of target: 'vfoi-user'"));
}

TEST(Targets, APathThatIsMissingIsAskedFor) { EXPECT_THAT(message_of("vfio-user:"), HasSubstr("PATH is missing")); }

TEST(Targets, AnUnknownDeviceIsNamedAndTheKnownOnesListed) {
  EXPECT_THAT(message_of("local:disk,ram"), HasSubstr("unknown device 'disk' | devices: "));
  EXPECT_THAT(message_of("local:disk,ram"), HasSubstr("blk"));
}

TEST(Targets, AnUnknownOptionIsNamedAndTheKnownOnesListed) {
  const std::string message = message_of("local:blk,null,size=1M,pakced");
  EXPECT_THAT(message, HasSubstr("pakced: unknown option"));
  EXPECT_THAT(message, HasSubstr("image"));
  EXPECT_THAT(message, HasSubstr("packed"));
}

TEST(Targets, AnUnknownOptionIsNamedBeforeMissingStorage) {
  EXPECT_THAT(message_of("local:blk,pakced"), HasSubstr("pakced: unknown option"));
  EXPECT_THAT(message_of("local:blk,image=/none,pakced"), HasSubstr("pakced: unknown option"));
}

TEST(Targets, AnAddressThatNothingCanHaveIsRefused) {
  EXPECT_THAT(message_of("vfio-user:/" + std::string(107, 'x')), HasSubstr("at most 107 characters"));
  const std::string longest = "vfio-user:/" + std::string(106, 'x');
  EXPECT_TRUE(parse_address(longest, "target", target_schemes()));
  EXPECT_FALSE(parse_address("vduse:a/b", "listener", listener_schemes()));
  EXPECT_TRUE(parse_address("vduse:disk0", "listener", listener_schemes()));
}

TEST(Targets, AnOptionThatIsGivenTwiceIsRefused) {
  EXPECT_THAT(message_of("local:blk,null,size=1M,size=2M"), HasSubstr("size: given twice"));
}

TEST(Targets, ALocalDeviceIsDriven) {
  auto handle = open("local:blk,null,size=1M,packed,queues=2");
  ASSERT_TRUE(handle) << handle.error().message();
  EXPECT_EQ((*handle)->name(), "local:blk,null,size=1M,packed,queues=2");
  const auto vectors = (*handle)->msix_vector_count();
  ASSERT_TRUE(vectors) << vectors.error().message();
  EXPECT_EQ(*vectors, 3u);
}

TEST(Targets, AFunctionThatIsNoVirtioDeviceIsDrivenAsWell) {
  auto handle = open("local:edu,dma-time=5,spin=20");
  ASSERT_TRUE(handle) << handle.error().message();
  EXPECT_EQ((*handle)->identity()->device, 0x11E8);
  EXPECT_THAT(message_of("local:edu,dma-maks=1"), HasSubstr("dma-maks: unknown option"));
  EXPECT_THAT(message_of("local:edu,packed"), HasSubstr("options: dma-mask, dma-time, factorial-time, spin"));
}

TEST(Targets, ACommaInAValueIsDoubled) {
  const outboard::testing::TempDir dir;
  dir.make_file("a,b.raw", 1 << 20);
  EXPECT_EQ(message_of("local:blk,image=" + dir.path("a,,b.raw")), "opened");
  EXPECT_THAT(message_of("local:blk,image=" + dir.path("a,b.raw")), HasSubstr("b.raw: unknown option"));
}

TEST(Targets, AServerThatIsNotThereIsAnError) {
  const outboard::testing::TempDir dir;
  const auto handle = open("vfio-user:" + dir.path("no.sock"));
  ASSERT_FALSE(handle);
  EXPECT_EQ(handle.error().code(), ENOENT);
  EXPECT_THAT(handle.error().message(), HasSubstr(dir.path("no.sock")));
}

TEST(Targets, EveryDeviceOfTheTableHasItsOwnName) {
  for (const auto& entry : device_table())
    EXPECT_EQ(entry.name, entry.type != nullptr ? entry.type->name : entry.function->name);
}

TEST(Listeners, AnUnknownSchemeIsNamed) {
  OptionSet set;
  ASSERT_TRUE(set.set("null", std::nullopt));
  const auto type = find_device("blk");
  ASSERT_TRUE(type);
  const auto service = serve(**type, set, "tcp:1234", {});
  ASSERT_FALSE(service);
  EXPECT_THAT(service.error().message(), HasSubstr("unknown kind of listener: 'tcp'"));
}

TEST(Listeners, TheVdpaBusTakesVirtioDevicesOnly) {
  const auto entry = find_device("edu");
  ASSERT_TRUE(entry);
  const auto service = serve(**entry, OptionSet(), "vduse:edu0", {});
  ASSERT_FALSE(service);
  EXPECT_EQ(service.error().code(), ENOTSUP);
  EXPECT_THAT(service.error().message(), HasSubstr("edu is not a virtio device"));
}

TEST(Listeners, AFunctionThatIsNoVirtioDeviceIsServed) {
  const outboard::testing::TempDir dir;
  const auto entry = find_device("edu");
  ASSERT_TRUE(entry);
  const auto service = serve(**entry, OptionSet(), "vfio-user:" + dir.path("edu.sock"), {});
  ASSERT_TRUE(service) << service.error().message();
  EXPECT_EQ((*service)->where(), "vfio-user:" + dir.path("edu.sock"));
  EXPECT_EQ((*service)->description(), "");
  EXPECT_TRUE((*service)->reload()) << "there is nothing to look at again";
}

TEST(Listeners, AnOptionOfTheOtherListenerIsNamedWithTheListenerThatItIsFor) {
  const auto refused = [](std::string name, std::string listener) {
    OptionSet set(OptionSet::Syntax::command_line);
    EXPECT_TRUE(set.set("null", std::nullopt) && set.set("size", "1M") && set.set(std::move(name), "2"));
    const auto service = serve(**find_device("blk"), set, listener, {});
    return service ? std::string("served") : service.error().message();
  };
  const outboard::testing::TempDir dir;
  const std::string socket = "vfio-user:" + dir.path("blk.sock");
  EXPECT_EQ(refused("threads", socket), "--threads: this option is for vduse:NAME, and the listener is " + socket);
  for (const auto& option : vduse_options())
    EXPECT_THAT(refused(std::string(option.name), socket), HasSubstr("is for vduse:NAME")) << option.name;
  for (const char* name : {"vectors", "error-interrupt"})
    EXPECT_THAT(refused(name, "vduse:disk"), HasSubstr("is for vfio-user:PATH")) << name;
}

TEST(Listeners, VduseListsEveryOptionThatItTakes) {
  std::string list;
  for (const auto& word : options_beside_device_on_vduse()) list += std::string(word.name) + " ";
  for (const char* word : {"packed ", "in-order ", "iommu-platform ", "poll ", "spin ", "threads ", "journal "})
    EXPECT_THAT(list, HasSubstr(word));
  EXPECT_THAT(list, Not(HasSubstr("vectors")));
  EXPECT_THAT(list, Not(HasSubstr("error-interrupt")));
}

TEST(TransportWords, WhatAServerBeforeHadOtherwiseIsSaidAsItIsTyped) {
  const virtio::DeviceType& blk = *(*find_device("blk"))->type;
  const journal::File::Shape plain{.device_id = 2, .offered = virtio::Features{}, .queue_sizes = {256}};
  EXPECT_EQ(differing_options(blk, plain, plain), "");
  auto other = plain;
  other.queue_sizes = {128, 128};
  other.offered.set(virtio::Feature::ring_packed);
  for (const auto& feature : blk.features) {
    if (feature.name == "RO") other.offered.set(feature.bit);
  }
  EXPECT_EQ(differing_options(blk, plain, other),
            "without --packed, without --read-only, with --queues 1, with --queue-size 256");
  EXPECT_EQ(differing_options(blk, other, plain),
            "with --packed, with --read-only, with --queues 2, with --queue-size 128");
}

TEST(TransportWords, AreTakenOutAndUnderstood) {
  auto set = OptionSet::parse("packed,poll,vectors=5,spin=20,image=x");
  ASSERT_TRUE(set);
  const auto options = take_transport_options(*set);
  ASSERT_TRUE(options) << options.error().message();
  EXPECT_TRUE(options->function.core.packed);
  EXPECT_TRUE(options->function.core.poll && options->function.shared_doorbells);
  EXPECT_EQ(options->function.vectors, 5u);
  EXPECT_EQ(options->spin, std::chrono::microseconds(20));
  EXPECT_FALSE(set->has("packed"));
  EXPECT_TRUE(set->has("image"));
}

TEST(TransportWords, AccessPlatformIsOfferedUnlessToldOtherwise) {
  const auto taken = [](std::string_view text) {
    auto set = OptionSet::parse(text);
    return take_transport_options(*set).value().function.core.access_platform;
  };
  EXPECT_EQ(taken("packed"), virtio::AccessPlatform::on);
  EXPECT_EQ(taken("iommu-platform=on"), virtio::AccessPlatform::on);
  EXPECT_EQ(taken("iommu-platform=off"), virtio::AccessPlatform::off);
  EXPECT_EQ(taken("iommu-platform=require"), virtio::AccessPlatform::require);
  auto set = OptionSet::parse("iommu-platform=maybe");
  EXPECT_EQ(take_transport_options(*set).error().code(), EINVAL);
}

TEST(TransportWords, AVduseDeviceInsistsOnAccessPlatform) {
  for (const std::string_view text : {"iommu-platform=off", "iommu-platform=on"}) {
    auto set = OptionSet::parse(text);
    const auto refused = take_vduse_options(*set, "disk", {});
    ASSERT_FALSE(refused) << text;
    EXPECT_EQ(refused.error().code(), EINVAL);
    EXPECT_THAT(refused.error().cure(), HasSubstr("require"));
  }
  auto set = OptionSet::parse("iommu-platform=require");
  EXPECT_TRUE(take_vduse_options(*set, "disk", {}));
}

TEST(TransportWords, AValueOutOfRangeIsRefused) {
  auto set = OptionSet::parse("vectors=1");
  ASSERT_TRUE(set);
  EXPECT_EQ(take_transport_options(*set).error().code(), ERANGE);
}

}  // namespace
}  // namespace outboard::targets
