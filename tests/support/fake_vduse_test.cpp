#include <tests/support/fake_vduse.hpp>

#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstring>
#include <thread>

#include <gtest/gtest.h>

#include <tests/support/temp_dir.hpp>

namespace outboard::testing {
namespace {

namespace spec = vduse::spec;
using Call = FakeVduse::Call;

constexpr std::uint64_t features = UINT64_C(3) << 32;

vduse::DeviceShape shape(unsigned queues = 2) {
  return {.name = "blk0",
          .device_id = 2,
          .features = features,
          .queue_sizes = std::vector<std::uint16_t>(queues, 64),
          .config = std::vector<std::byte>(60)};
}

vduse::DeviceShape shape_with_spaces(std::uint32_t groups, std::uint32_t spaces) {
  auto made = shape();
  made.groups = groups;
  made.address_spaces = spaces;
  return made;
}

short events_of(int fd) {
  pollfd state{fd, POLLIN, 0};
  ::poll(&state, 1, 0);
  return state.revents;
}

Status answer(vduse::Node& node, const spec::Request& request, std::uint32_t result = spec::result::ok) {
  spec::Response response{};
  response.request_id = request.request_id;
  response.result = result;
  return node.reply(response);
}

/// Reads the next message and answers it.
Status answer_next(vduse::Node& node, std::uint32_t result = spec::result::ok) {
  const auto request = node.read();
  if (!request || !*request) return Error(EAGAIN, "no message");
  return answer(node, **request, result);
}

class FakeVduseTest : public ::testing::Test {
 protected:
  FakeVduseTest() { reopen(); }
  void reopen() {
    auto opened = device.open();
    ASSERT_TRUE(opened);
    node = std::move(*opened);
  }
  void set_up() {
    ASSERT_TRUE(node->set_up_queue(0, 64, 0));
    ASSERT_TRUE(node->set_up_queue(1, 64, 0));
  }
  void pump() { (void)answer_next(*node); }
  void run() {
    ASSERT_TRUE(device.negotiate(features, [&] { pump(); }));
    ASSERT_TRUE(device.advance(0xf, [&] { pump(); }));
  }

  FakeVduse device{shape()};
  std::unique_ptr<vduse::Node> node;
};

TEST_F(FakeVduseTest, AShapeThatTheKernelRefusesIsNoDevice) {
  auto bad = shape();
  bad.features = 0;
  EXPECT_THROW(FakeVduse{bad}, std::invalid_argument);
}

// Messages.

TEST_F(FakeVduseTest, TheNodeIsReadableWhileAMessageWaits) {
  EXPECT_EQ(events_of(node->fd()), 0);
  const auto first = device.set_status(0), second = device.set_status(1);
  EXPECT_EQ(events_of(node->fd()), POLLIN);
  ASSERT_TRUE(answer_next(*node));
  EXPECT_EQ(events_of(node->fd()), POLLIN);
  EXPECT_TRUE(first.ok());
  EXPECT_FALSE(second.answered());
  const auto read = node->read();
  ASSERT_TRUE(read && *read);
  EXPECT_EQ(events_of(node->fd()), 0);
  EXPECT_FALSE(second.answered());
}

TEST_F(FakeVduseTest, AMessageIsAnsweredOnce) {
  (void)device.set_status(0);
  const auto request = node->read();
  ASSERT_TRUE(answer(*node, **request));
  EXPECT_EQ(answer(*node, **request).error().code(), ENOENT);
}

TEST_F(FakeVduseTest, AnAnswerToWhatWasNotReadIsRefused) {
  (void)device.set_status(0);
  EXPECT_EQ(node->reply({}).error().code(), ENOENT);
}

TEST_F(FakeVduseTest, AStatusIsStoredWhenItIsAcceptedAndNotBefore) {
  const auto message = device.set_status(1);
  EXPECT_EQ(device.status(), 0);
  ASSERT_TRUE(answer_next(*node));
  EXPECT_EQ(device.status(), 1);
  (void)device.set_status(3);
  ASSERT_TRUE(answer_next(*node, spec::result::failed));
  EXPECT_EQ(device.status(), 1);
}

TEST_F(FakeVduseTest, DriverOkThatIsRefusedWedgesTheMachine) {
  const auto message = device.set_status(0xf);
  ASSERT_TRUE(answer_next(*node, spec::result::failed));
  EXPECT_EQ(message.outcome(), FakeVduse::Outcome::refused);
  EXPECT_TRUE(device.wedged());
}

TEST_F(FakeVduseTest, WhatWasReadAndNotAnsweredComesAgainToTheNextOpener) {
  const auto first = device.set_status(1), second = device.set_status(3);
  const auto before = node->read();
  EXPECT_TRUE(first.read());
  device.kill_server();
  EXPECT_EQ(node->read().error().code(), EBADF);
  EXPECT_EQ(answer(*node, **before).error().code(), EBADF);
  reopen();
  EXPECT_EQ(events_of(node->fd()), POLLIN);
  const auto again = node->read();
  EXPECT_EQ((*again)->request_id, (*before)->request_id);
  EXPECT_EQ((*node->read())->request_id, second.request_id());
}

TEST_F(FakeVduseTest, TheNodeHasOneOpener) {
  EXPECT_EQ(device.open().error().code(), EBUSY);
  node.reset();
  EXPECT_TRUE(device.open());
}

TEST_F(FakeVduseTest, AWithdrawnMessageIsNotReadAndItsAnswerIsRefused) {
  const auto unread = device.set_status(1);
  device.withdraw(unread);
  EXPECT_EQ(events_of(node->fd()), 0);
  EXPECT_FALSE(node->read()->has_value());

  const auto read = device.set_status(1);
  const auto request = node->read();
  device.withdraw(read);
  EXPECT_EQ(answer(*node, **request).error().code(), ENOENT);
  EXPECT_EQ(device.status(), 0);
}

TEST_F(FakeVduseTest, ATimeOutBreaksTheDeviceForGood) {
  const auto message = device.set_status(1);
  device.time_out();
  EXPECT_EQ(message.outcome(), FakeVduse::Outcome::failed);
  EXPECT_NE(events_of(node->fd()) & POLLHUP, 0);
  EXPECT_FALSE(node->read()->has_value());
  EXPECT_EQ(node->driver_features().error().code(), EPERM);
  EXPECT_EQ(node->inject_interrupt(0).error().code(), EPERM);
  EXPECT_EQ(node->find_region(0, 0, 0).error().code(), EPERM);
  EXPECT_EQ(device.set_status(3).outcome(), FakeVduse::Outcome::failed);
  node.reset();
  EXPECT_EQ(device.open().error().code(), EPERM);
}

TEST_F(FakeVduseTest, APayloadIsWhatWasSent) {
  (void)device.update_iotlb(0, 5, 9);
  spec::UpdateIotlbRequest payload{};
  const auto request = node->read();
  std::memcpy(&payload, (*request)->payload.data(), sizeof payload);
  EXPECT_EQ((*request)->type, 2U);
  EXPECT_EQ(payload.start, 5U);
  EXPECT_EQ(payload.last, 9U);
}

// Reset.

TEST_F(FakeVduseTest, AResetForgetsFeaturesQueuesEventfdsAndTheBounceBuffer) {
  set_up();
  ASSERT_TRUE(device.attach());
  run();
  const auto kick = EventFd::create();
  ASSERT_TRUE(node->set_kick(0, &*kick));
  device.place_queue(0, FakeVduse::Ring{.num = 8, .descriptors = 0x1000});
  (void)device.map({.start = 0, .size = 0x10000, .bounce = true});
  (void)device.map({.start = 0x100000, .size = 0x1000});

  (void)device.set_status(0);
  ASSERT_TRUE(answer_next(*node, spec::result::failed));  // whatever the answer

  EXPECT_EQ(*node->driver_features(), 0U);
  EXPECT_EQ(node->queue_info(0)->num, 0U);
  EXPECT_EQ(node->queue_info(0)->ready, 0);
  EXPECT_FALSE(device.has_kick(0));
  EXPECT_EQ(node->region_info(0, 0, UINT64_MAX)->value().start, 0x100000U);
  EXPECT_EQ(device.max_size(0), 64);
}

// Queues.

TEST_F(FakeVduseTest, AttachNeedsEachQueueToBeSetUp) {
  ASSERT_TRUE(node->set_up_queue(0, 64, 0));
  EXPECT_EQ(device.attach().error().code(), EINVAL);
  ASSERT_TRUE(node->set_up_queue(1, 64, 0));
  EXPECT_TRUE(device.attach());
  EXPECT_EQ(device.attach().error().code(), EEXIST);
}

TEST_F(FakeVduseTest, QueuesAndGroupsThatAreNotThereAreRefused) {
  EXPECT_EQ(node->set_up_queue(2, 64, 0).error().code(), EINVAL);
  EXPECT_EQ(node->set_up_queue(0, 64, 1).error().code(), EINVAL);
  EXPECT_EQ(node->queue_info(2).error().code(), EINVAL);
  EXPECT_EQ(node->set_kick(2, nullptr).error().code(), EINVAL);
  EXPECT_EQ(node->inject_interrupt(2).error().code(), EINVAL);
}

TEST_F(FakeVduseTest, AnInterruptBeforeDriverOkIsRefused) {
  device.place_queue(0, FakeVduse::Ring{.num = 8});
  EXPECT_EQ(node->inject_interrupt(0).error().code(), EINVAL);
  EXPECT_EQ(node->inject_config_interrupt().error().code(), EINVAL);
  run();
  device.place_queue(0, FakeVduse::Ring{.num = 8});
  EXPECT_TRUE(node->inject_interrupt(0));
  EXPECT_TRUE(node->inject_config_interrupt());
  EXPECT_EQ(device.interrupts(0), 1U);
  EXPECT_EQ(device.config_interrupts(), 1U);
}

TEST_F(FakeVduseTest, DriverOkIsStoredSomeTriesAfterItsAnswer) {
  device.store_driver_ok_after(3);
  device.place_queue(0, FakeVduse::Ring{.num = 8});
  run();
  for (unsigned i = 0; i < 3; ++i) {
    EXPECT_EQ(node->inject_interrupt(0).error().code(), EINVAL);
    EXPECT_EQ(device.status(), 0xb);
  }
  EXPECT_TRUE(node->inject_interrupt(0));
  EXPECT_EQ(device.status(), 0xf);
}

TEST_F(FakeVduseTest, AnInterruptOfAQueueThatIsNotReadyIsSwallowed) {
  run();
  EXPECT_TRUE(node->inject_interrupt(0));
  EXPECT_EQ(device.interrupts(0), 0U);
  EXPECT_EQ(device.swallowed(0), 1U);
}

TEST_F(FakeVduseTest, AnEventfdOfTheDriverNeedsNoDriverOk) {
  const auto call = EventFd::create();
  device.place_queue(0, FakeVduse::Ring{.num = 8});
  device.set_call(0, &*call);
  EXPECT_TRUE(node->inject_interrupt(0));
  EXPECT_EQ(call->drain(), 1U);
}

TEST_F(FakeVduseTest, AKickIsLostKeptOrDelivered) {
  const auto kick = EventFd::create();
  device.kick(0);  // not ready: lost
  device.place_queue(0, FakeVduse::Ring{.num = 8});
  ASSERT_TRUE(node->set_kick(0, &*kick));
  EXPECT_EQ(kick->drain(), 0U);

  ASSERT_TRUE(node->set_kick(0, nullptr));
  device.kick(0);  // no eventfd: kept
  ASSERT_TRUE(node->set_kick(0, &*kick));
  EXPECT_EQ(kick->drain(), 1U);

  device.kick(0);
  EXPECT_EQ(kick->drain(), 1U);
}

TEST_F(FakeVduseTest, AQueueIsWhereTheDriverPutItsRing) {
  const HandDriver ring({.packed = true, .size = 16});
  device.place_queue(1, ring);
  const auto info = node->queue_info(1);
  EXPECT_EQ(info->num, 16U);
  EXPECT_EQ(info->desc_addr, memory::raw(ring.address(0)));
  EXPECT_EQ(info->device_addr, memory::raw(ring.address(2)));
  EXPECT_EQ(info->state.packed.last_avail_counter, 1);
  EXPECT_EQ(info->ready, 1);
}

TEST_F(FakeVduseTest, InterruptsCanBeWaitedFor) {
  run();
  device.place_queue(0, FakeVduse::Ring{.num = 8});
  std::thread server([&] { EXPECT_TRUE(node->inject_interrupt(0)); });
  EXPECT_TRUE(device.wait_for_interrupts(0, 1));
  server.join();
}

// Memory.

class FakeVduseMemory : public FakeVduseTest {
 protected:
  FakeVduseMemory() {
    set_up();
    EXPECT_TRUE(device.attach());
  }
};

TEST_F(FakeVduseTest, BeforeTheDeviceIsAttachedThereIsNoMemory) {
  (void)device.map({.start = 0, .size = 0x1000});
  EXPECT_FALSE(node->find_region(0, 0, 0)->has_value());
}

TEST_F(FakeVduseMemory, TheLowestRegionThatOverlapsIsFound) {
  (void)device.map({.start = 0x3000, .size = 0x1000, .perm = spec::perm::read});
  (void)device.map({.start = 0x1000, .size = 0x1000});
  EXPECT_EQ(node->find_region(0, 0, UINT64_MAX)->value().start, 0x1000U);
  const auto found = node->find_region(0, 0x2000, 0x3000);
  EXPECT_EQ((*found)->start, 0x3000U);
  EXPECT_EQ((*found)->last, 0x3fffU);
  EXPECT_EQ((*found)->perm, spec::perm::read);
  EXPECT_FALSE(node->find_region(0, 0x2000, 0x2fff)->has_value());
}

TEST_F(FakeVduseMemory, BothSidesSeeTheSameBytesAtAnyOffset) {
  const auto memory = device.map({.start = 0x1000, .size = 0x1000, .offset = 0x123});
  const auto found = node->find_region(0, 0x1000, 0x1000);
  struct stat status{};
  ASSERT_EQ(::fstat((*found)->fd.get(), &status), 0);
  EXPECT_EQ((*found)->offset, 0x123U);
  EXPECT_EQ(status.st_size, 0x1123);
  memory->data()[5] = std::byte{42};
  std::byte seen{};
  ASSERT_EQ(::pread((*found)->fd.get(), &seen, 1, 0x128), 1);
  EXPECT_EQ(seen, std::byte{42});
  EXPECT_EQ(device.at(0x1005, 1)[0], std::byte{42});
}

TEST_F(FakeVduseMemory, MemoryIsRegisteredForTheWholeBounceBufferOnce) {
  void* pages = ::mmap(nullptr, 0x4000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  const MutableBytes own(static_cast<std::byte*>(pages), 0x4000);
  EXPECT_EQ(node->register_memory(0, 0, own).error().code(), EINVAL);
  (void)device.map({.start = 0, .size = 0x4000, .bounce = true});
  device.at(0x10, 1)[0] = std::byte{9};
  EXPECT_EQ(node->register_memory(0, 0, own.first(0x1000)).error().code(), EINVAL);
  EXPECT_EQ(node->region_info(0, 0, 0)->value().capability, spec::capability::umem);
  ASSERT_TRUE(node->register_memory(0, 0, own));
  EXPECT_EQ(node->register_memory(0, 0, own).error().code(), EEXIST);
  EXPECT_EQ(own[0x10], std::byte{9});
  EXPECT_EQ(device.at(0x10, 1).data(), own.data() + 0x10);
  own[0x11] = std::byte{8};
  device.kill_server();
  EXPECT_FALSE(device.memory_registered());
  EXPECT_EQ(device.at(0x11, 1)[0], std::byte{8});
  ::munmap(pages, 0x4000);
}

TEST_F(FakeVduseMemory, ARefusedUpdateEmptiesTheAddressSpace) {
  (void)device.map({.start = 0x1000, .size = 0x1000});
  (void)device.update_iotlb();
  ASSERT_TRUE(answer_next(*node, spec::result::failed));
  EXPECT_FALSE(node->region_info(0, 0, UINT64_MAX)->has_value());
}

TEST(FakeVduseApi1, GroupsMoveToTheirAddressSpaces) {
  FakeVduse device(shape_with_spaces(2, 2), spec::api_version_1);
  const auto node = *device.open();
  ASSERT_TRUE(node->set_up_queue(0, 64, 1));
  EXPECT_EQ(node->set_up_queue(0, 64, 2).error().code(), EINVAL);
  EXPECT_EQ(device.group(0), 1U);
  (void)device.set_group_asid(1, 1);
  ASSERT_TRUE(answer_next(*node));
  EXPECT_EQ(device.group_asid(1), 1U);
  (void)device.set_status(0);
  ASSERT_TRUE(answer_next(*node));
  EXPECT_EQ(device.group_asid(1), 1U);  // it stays over a reset
}

TEST(FakeVduseApi1, QueuesCannotBeSetUpWhileTheDriverRuns) {
  FakeVduse device(shape_with_spaces(1, 1), spec::api_version_1);
  const auto node = *device.open();
  ASSERT_TRUE(device.advance(0xf, [&] { (void)answer_next(*node); }));
  EXPECT_EQ(node->set_up_queue(0, 64, 0).error().code(), EINVAL);
}

TEST_F(FakeVduseMemory, WithApiVersion0ThereIsOneAddressSpace) {
  EXPECT_EQ(node->find_region(1, 0, 0).error().code(), EINVAL);
  EXPECT_EQ(node->region_info(1, 0, 0).error().code(), EINVAL);
}

// The rest.

TEST_F(FakeVduseTest, TheConfigurationChangesWithinItsSize) {
  const std::array<std::byte, 2> value{std::byte{1}, std::byte{2}};
  ASSERT_TRUE(node->set_config(58, value));
  EXPECT_EQ(device.config()[59], std::byte{2});
  EXPECT_EQ(node->set_config(59, value).error().code(), EINVAL);
  EXPECT_EQ(node->set_config(0, {}).error().code(), EINVAL);
}

TEST_F(FakeVduseTest, ACallFailsAsOftenAsTheTestWishes) {
  device.fail(Call::find_region, EMFILE, 2);
  EXPECT_EQ(node->find_region(0, 0, 0).error().code(), EMFILE);
  EXPECT_EQ(node->find_region(0, 0, 0).error().code(), EMFILE);
  EXPECT_TRUE(node->find_region(0, 0, 0));
  EXPECT_EQ(device.calls(Call::find_region), 3U);
}

}  // namespace
}  // namespace outboard::testing
