#include <outboard/vduse/node.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/internal/file_holder.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::vduse {
namespace {

namespace call = spec::ioctl;
using ::testing::HasSubstr;

constexpr std::uint32_t get_fd2_of_88_bytes = 0xc058811b;

/// A node that does what the test says for each ioctl, and takes those that it has no word for.
struct Script {
  std::map<std::uint32_t, std::function<int(void*)>> answers;
  std::vector<std::uint32_t> calls;
  ssize_t read = -EAGAIN;
  ssize_t write = spec::message_size;
  std::vector<std::byte> written;

  void answer(std::uint32_t request, int value) {
    answers[request] = [value](void*) { return value; };
  }
};

class ScriptedFile final : public NodeFile {
 public:
  explicit ScriptedFile(Script& script) : script_(script) {}
  int fd() const override { return -1; }
  int control(std::uint32_t request, void* argument) override {
    script_.calls.push_back(request);
    const auto found = script_.answers.find(request);
    return found == script_.answers.end() ? 0 : found->second(argument);
  }
  ssize_t read(MutableBytes) override { return script_.read; }
  ssize_t write(Bytes from) override {
    script_.written.assign(from.begin(), from.end());
    return script_.write;
  }

 private:
  Script& script_;
};

class NodeTest : public ::testing::Test {
 protected:
  std::unique_ptr<Node> open(std::optional<std::uint64_t> version = spec::api_version_0) {
    auto node = node_on(std::make_unique<ScriptedFile>(script), "blk0", version);
    EXPECT_TRUE(node);
    script.calls.clear();
    return node ? std::move(*node) : nullptr;
  }
  /// A region [start, last] is what is found.
  static std::function<int(void*)> region(std::uint64_t start, std::uint64_t last, std::uint8_t perm = 3) {
    return [=](void* argument) {
      auto* entry = static_cast<spec::IotlbEntry*>(argument);
      entry->start = start;
      entry->last = last;
      entry->perm = perm;
      entry->offset = 0x1230;
      return ::memfd_create("region", 0);
    };
  }

  Script script;
};

// Messages.

TEST_F(NodeTest, VDUSE17_WithoutAMessageThereIsNothingToRead) {
  const auto node = open();
  for (const ssize_t result : {ssize_t{-EAGAIN}, ssize_t{-EINTR}, ssize_t{0}, ssize_t{151}}) {
    script.read = result;
    const auto message = node->read();
    ASSERT_TRUE(message) << result;
    EXPECT_FALSE(message->has_value()) << result;
  }
}

TEST_F(NodeTest, VDUSE17_AnyOtherFailureOfReadingIsOne) {
  const auto node = open();
  script.read = -ENODEV;
  EXPECT_EQ(node->read().error().code(), ENODEV);
}

TEST_F(NodeTest, VDUSE18_AnAnswerThatNobodyWaitsForIsToldFromOthers) {
  const auto node = open();
  script.write = -ENOENT;
  EXPECT_EQ(node->reply({}).error().code(), ENOENT);
}

TEST_F(NodeTest, VDUSE19_ReservedWordsOfAnAnswerAreAlwaysZero) {
  const auto node = open();
  spec::Response response{};
  response.request_id = 5;
  response.reserved.fill(0xdead);
  ASSERT_TRUE(node->reply(response));
  spec::Response written{};
  ASSERT_EQ(script.written.size(), sizeof written);
  std::memcpy(&written, script.written.data(), sizeof written);
  EXPECT_EQ(written.request_id, 5U);
  EXPECT_EQ(written.reserved, decltype(written.reserved){});
}

// Given up.

TEST_F(NodeTest, VDUSE20_EveryCallTellsThatTheKernelHasGivenUp) {
  const auto node = open();
  for (const auto request : {call::dev_get_features, call::dev_set_config, call::dev_inject_config_irq, call::vq_setup,
                             call::vq_get_info, call::vq_setup_kickfd, call::vq_inject_irq, call::iotlb_get_fd,
                             call::iotlb_get_info, call::iotlb_reg_umem, call::iotlb_dereg_umem})
    script.answer(request, -EPERM);
  const std::byte byte{};
  std::vector<Error> errors{node->driver_features().error(),
                            node->set_config(0, Bytes(&byte, 1)).error(),
                            node->inject_config_interrupt().error(),
                            node->set_up_queue(0, 64, 0).error(),
                            node->queue_info(0).error(),
                            node->set_kick(0, nullptr).error(),
                            node->inject_interrupt(0).error(),
                            node->find_region(0, 0, 1).error(),
                            node->region_info(0, 0, 1).error(),
                            node->register_memory(0, 0, {}).error(),
                            node->unregister_memory(0, 0, {}).error()};
  for (const Error& error : errors) {
    EXPECT_EQ(error.code(), EPERM) << error.message();
    EXPECT_THAT(error.message(), HasSubstr("given the device up"));
    EXPECT_THAT(error.cure(), HasSubstr("outboard vduse remove"));
  }
}

TEST_F(NodeTest, VDUSE20_ANodeThatIsGivenUpCannotBeOpened) {
  script.answer(call::dev_get_features, -EPERM);
  EXPECT_EQ(node_on(std::make_unique<ScriptedFile>(script), "blk0").error().code(), EPERM);
}

TEST_F(NodeTest, AnotherDeviceIsNoNode) {
  script.answer(call::dev_get_features, -ENOTTY);
  EXPECT_EQ(node_on(std::make_unique<ScriptedFile>(script), "null").error().code(), ENODEV);
}

// Queues.

TEST_F(NodeTest, VDUSE37_AnInterruptWithoutDriverOkIsEinval) {
  const auto node = open();
  script.answer(call::vq_inject_irq, -EINVAL);
  script.answer(call::dev_inject_config_irq, -EINVAL);
  EXPECT_EQ(node->inject_interrupt(3).error().code(), EINVAL);
  EXPECT_EQ(node->inject_config_interrupt().error().code(), EINVAL);
}

TEST_F(NodeTest, AKickIsSetOrTakenAway) {
  const auto node = open();
  std::vector<int> fds;
  script.answers[call::vq_setup_kickfd] = [&](void* argument) {
    fds.push_back(static_cast<spec::VqEventfd*>(argument)->fd);
    return 0;
  };
  const auto kick = EventFd::create();
  ASSERT_TRUE(node->set_kick(0, &*kick));
  ASSERT_TRUE(node->set_kick(0, nullptr));
  EXPECT_THAT(fds, ::testing::ElementsAre(kick->get(), -1));
}

TEST_F(NodeTest, AKickThatIsNoEventfdNeverReachesTheKernel) {
  // It would take -1 for the wish to have none.
  const auto node = open();
  const EventFd none;
  EXPECT_EQ(node->set_kick(0, &none).error().code(), EBADF);
  EXPECT_TRUE(script.calls.empty());
}

TEST_F(NodeTest, ConfigurationGoesBehindItsHead) {
  const auto node = open();
  std::vector<std::byte> sent;
  script.answers[call::dev_set_config] = [&](void* argument) {
    const auto* bytes = static_cast<const std::byte*>(argument);
    sent.assign(bytes, bytes + 12);
    return 0;
  };
  const std::array<std::byte, 4> value{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  ASSERT_TRUE(node->set_config(16, value));
  spec::ConfigData head{};
  std::memcpy(&head, sent.data(), sizeof head);
  EXPECT_EQ(head.offset, 16U);
  EXPECT_EQ(head.length, 4U);
  EXPECT_EQ(sent[11], std::byte{4});
}

// Memory.

TEST_F(NodeTest, ARegionsDescriptorIsClosedOnExec) {
  const auto node = open();
  script.answers[call::iotlb_get_fd] = region(0x1000, 0x1fff);
  const auto found = node->find_region(0, 0x1800, 0x1800);
  ASSERT_TRUE(found && *found);
  EXPECT_EQ(::fcntl((*found)->fd.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ((*found)->start, 0x1000U);
  EXPECT_EQ((*found)->offset, 0x1230U);
}

TEST_F(NodeTest, VDUSE38_AHoleIsNothing) {
  const auto node = open();
  script.answer(call::iotlb_get_fd, -EINVAL);
  script.answer(call::iotlb_get_info, -EINVAL);
  EXPECT_FALSE(node->find_region(0, 0, 1)->has_value());
  EXPECT_FALSE(node->region_info(0, 0, 1)->has_value());
}

TEST_F(NodeTest, VDUSE38_WithoutADescriptorTheLimitIsNamed) {
  const auto node = open();
  for (const int code : {EMFILE, ENFILE}) {
    script.answer(call::iotlb_get_fd, -code);
    const auto found = node->find_region(0, 0, 1);
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().code(), code);
    EXPECT_THAT(found.error().cure(), HasSubstr("ulimit -n"));
  }
}

TEST_F(NodeTest, VDUSE38_ASecurityModuleIsNamed) {
  const auto node = open();
  script.answer(call::iotlb_get_fd, -EACCES);
  EXPECT_THAT(node->find_region(0, 0, 1).error().message(), HasSubstr("security module"));
}

TEST_F(NodeTest, ARangeThatEndsBeforeItBeginsNeverReachesTheKernel) {
  const auto node = open();
  EXPECT_EQ(node->find_region(0, 2, 1).error().code(), EINVAL);
  EXPECT_EQ(node->region_info(0, 2, 1).error().code(), EINVAL);
  EXPECT_TRUE(script.calls.empty());
}

TEST_F(NodeTest, ARegionThatIsNotWhatWasAskedForIsRefused) {
  const auto node = open();
  for (const auto& answer :
       {region(0x5000, 0x5fff), region(0x1fff, 0x1000), region(0x1000, 0x1fff, 0), region(0x1000, 0x1fff, 7)}) {
    script.answers[call::iotlb_get_fd] = answer;
    EXPECT_EQ(node->find_region(0, 0x1800, 0x1800).error().code(), EPROTO);
  }
}

TEST_F(NodeTest, WithApiVersion0TheOldCallIsUsedAndThereIsOneAddressSpace) {
  const auto node = open(spec::api_version_0);
  script.answers[call::iotlb_get_fd] = region(0, 0xfff);
  ASSERT_TRUE(node->find_region(0, 0, 0));
  EXPECT_THAT(script.calls, ::testing::ElementsAre(call::iotlb_get_fd));
  EXPECT_EQ(node->find_region(1, 0, 0).error().code(), EINVAL);
}

TEST_F(NodeTest, WithApiVersion1TheAddressSpaceIsPassed) {
  const auto node = open(spec::api_version_1);
  std::uint32_t asid = 0;
  script.answers[call::iotlb_get_fd2] = [&](void* argument) {
    asid = static_cast<spec::IotlbEntryV2*>(argument)->asid;
    return region(0, 0xfff)(argument);
  };
  ASSERT_TRUE(node->find_region(3, 0, 0));
  EXPECT_EQ(asid, 3U);
}

TEST_F(NodeTest, AnUnknownApiVersionIsFoundOutOnce) {
  const auto node = open(std::nullopt);
  script.answer(call::iotlb_get_fd2, -ENOTTY);
  script.answer(get_fd2_of_88_bytes, -ENOTTY);
  script.answers[call::iotlb_get_fd] = region(0, 0xfff);
  ASSERT_TRUE(node->find_region(0, 0, 0));
  ASSERT_TRUE(node->find_region(0, 0, 0));
  EXPECT_THAT(script.calls,
              ::testing::ElementsAre(call::iotlb_get_fd2, get_fd2_of_88_bytes, call::iotlb_get_fd, call::iotlb_get_fd));
}

TEST_F(NodeTest, AKernelWithTheLongerStructureIsUnderstood) {
  const auto node = open(spec::api_version_1);
  script.answer(call::iotlb_get_fd2, -ENOTTY);
  script.answers[get_fd2_of_88_bytes] = region(0, 0xfff);
  ASSERT_TRUE(node->find_region(2, 0, 0));
  ASSERT_TRUE(node->find_region(2, 0, 0));
  EXPECT_THAT(script.calls, ::testing::ElementsAre(call::iotlb_get_fd2, get_fd2_of_88_bytes, get_fd2_of_88_bytes));
}

TEST_F(NodeTest, AnAddressSpaceThatTheDeviceDoesNotHaveIsNamed) {
  const auto node = open();
  script.answer(call::iotlb_get_info, -EFAULT);
  EXPECT_EQ(node->region_info(9, 0, 1).error().code(), EINVAL);
  EXPECT_THAT(node->region_info(9, 0, 1).error().message(), HasSubstr("address space 9"));
}

TEST_F(NodeTest, VDUSE45_EachRefusalOfRegisteredMemoryIsToldFromTheOthers) {
  const auto node = open();
  for (const int code : {EINVAL, EEXIST, ENOMEM}) {
    script.answer(call::iotlb_reg_umem, -code);
    EXPECT_EQ(node->register_memory(0, 0, {}).error().code(), code);
  }
  EXPECT_THAT(node->register_memory(0, 0, {}).error().cure(), HasSubstr("ulimit -l"));
}

// Opening.

TEST(OpenNode, ADeviceThatIsNotThere) {
  const testing::TempDir folder;
  EXPECT_EQ(open_node("blk0", {}, folder.path()).error().code(), ENOENT);
}

TEST(OpenNode, VDUSE8_WhatIsNoDeviceNodeIsGone) {
  const testing::TempDir folder;
  (void)folder.make_file("blk0", 0);
  EXPECT_EQ(open_node("blk0", {}, folder.path()).error().code(), ENODEV);
}

TEST(OpenNode, ANameThatIsNoneIsNotLookedFor) { EXPECT_EQ(open_node("../null").error().code(), EINVAL); }

TEST(OpenNode, ADescriptorOfAnotherKindIsRefused) {
  EXPECT_EQ(adopt_node(UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC))).error().code(), ENODEV);
  EXPECT_EQ(adopt_node(testing::make_memfd(10)).error().code(), ENODEV);
  EXPECT_EQ(adopt_node(UniqueFd()).error().code(), EBADF);
}

TEST(OpenNode, VDUSE6_TheNodeIsWaitedForUntilTheTimeout) {
  const testing::TempDir folder;
  unsigned asked = 0;
  const auto come = [&] {
    if (++asked == 3) (void)folder.make_file("blk0", 0);
    return true;
  };
  EXPECT_TRUE(wait_for_node("blk0", come, folder.path()));
  EXPECT_EQ(asked, 3U);
  EXPECT_EQ(wait_for_node("blk1", [] { return false; }, folder.path()).error().code(), ENOENT);
}

TEST(OpenNode, VDUSE7_WhoHasItOpenIsFoundByItsDescriptors) {
  const testing::TempDir folder;
  (void)folder.make_file("blk0", 0);
  std::filesystem::create_directories(folder.path("proc/4711/fd"));
  std::filesystem::create_directories(folder.path("proc/4712/fd"));
  std::ofstream(folder.path("proc/4712/comm")) << "outboard\n";
  std::filesystem::create_symlink(folder.path("blk0"), folder.path("proc/4712/fd/7"));
  const auto holder = holder_of(folder.path("blk0"), folder.path("proc"));
  ASSERT_TRUE(holder);
  EXPECT_EQ(holder->pid, 4712);
  EXPECT_EQ(holder->command, "outboard");
  EXPECT_FALSE(holder_of(folder.path("blk1"), folder.path("proc")));
}

}  // namespace
}  // namespace outboard::vduse
