// The engine of a device's queue: notifications, memory that moves, tokens that outlive what they came from, stop and
// start, journal, order.

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <thread>

#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/memory/fault_guard.hpp>
#include <outboard/testing/device_rig.hpp>
#include <outboard/testing/temp_dir.hpp>
#include <outboard/virtio/device_queue.hpp>

namespace outboard::virtio {
namespace {

using memory::Access;
using memory::Iova;
using testing::DeviceRig;
using testing::RingDriver;
using testing::ScriptedDevice;
namespace flag = spec::descriptor;

using Used = std::vector<RingDriver::Used>;

class EitherDeviceQueue : public ::testing::TestWithParam<bool> {
 protected:
  bool packed() const { return GetParam(); }
  DeviceRig& make(DeviceRig::Setup setup = {}) {
    setup.packed = packed();
    rig_ = std::make_unique<DeviceRig>(setup);
    return *rig_;
  }
  DeviceRig& running(const DeviceRig::Setup& setup = {}) {
    make(setup).run();
    return *rig_;
  }
  /// A completion that keeps the state that a queue stopped with.
  static auto into(std::optional<QueueState>& state) {
    return [&state](const Result<QueueState>& result) {
      if (result) state = result.value();
    };
  }
  /// Stops queue 0 and returns what it says.
  QueueState stop(StopMode mode) {
    std::optional<QueueState> state;
    rig_->core->stop_queue(0, mode, into(state));
    rig_->settle();
    EXPECT_TRUE(state);
    return state.value_or(QueueState{});
  }
  std::unique_ptr<DeviceRig> rig_;
};
INSTANTIATE_TEST_SUITE_P(Rings, EitherDeviceQueue, ::testing::Bool(),
                         [](const auto& format) { return format.param ? "Packed" : "Split"; });

// Notifications.

TEST_P(EitherDeviceQueue, WithoutEventIndexAFlagSuppressesInterrupts) {
  auto& rig = running({.without = Features{Feature::event_idx}});
  rig.driver().chain().writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.notified[0], 1U);
  rig.driver().disable_interrupts();
  rig.driver().chain().writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.notified[0], 1U);
  EXPECT_EQ(rig.driver().take_used().size(), 2U);
  rig.driver().set_driver_flags(0);
  rig.driver().chain().writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.notified[0], 2U);
}

TEST_P(EitherDeviceQueue, WithEventIndexTheInterruptComesAtTheBufferThatWasAskedFor) {
  auto& rig = running({.size = 8});
  const auto one = [&] {
    rig.driver().chain().writable(1).publish();
    rig.process();
    rig.driver().take_used();
  };
  one();  // announced whatever the driver wishes
  ASSERT_EQ(rig.notified[0], 1U);
  // When the third from here has been used; and in a packed ring once more on the next turn.
  rig.driver().want_interrupt_at(packed() ? PackedCursor{3, true}.off_wrap() : 3);
  one();
  one();
  EXPECT_EQ(rig.notified[0], 1U);
  one();
  EXPECT_EQ(rig.notified[0], 2U);
  one();
  EXPECT_EQ(rig.notified[0], 2U);
  rig.driver().want_interrupt_at(packed() ? PackedCursor{1, false}.off_wrap() : 9);
  for (unsigned i = 0; i < 4; ++i) one();  // up to 8
  EXPECT_EQ(rig.notified[0], 2U);
  one();
  EXPECT_EQ(rig.notified[0], 3U);
}

TEST_P(EitherDeviceQueue, ABatchThatPassesTheEventIsAnnouncedOnce) {
  auto& rig = running();
  rig.driver().chain().writable(1).publish();
  rig.process();
  rig.driver().want_interrupt_at(packed() ? PackedCursor{4, true}.off_wrap() : 4);
  for (unsigned i = 0; i < 8; ++i) rig.driver().chain().writable(1).add();
  rig.driver().publish();
  rig.process();
  EXPECT_EQ(rig.notified[0], 2U);
  EXPECT_EQ(rig.driver().take_used().size(), 9U);
}

TEST_P(EitherDeviceQueue, AnIdleQueueAsksForTheNextBuffer) {
  for (const bool event_idx : {false, true}) {
    auto& rig = running({.without = event_idx ? Features{} : Features{Feature::event_idx}});
    for (unsigned i = 0; i < 3; ++i) rig.driver().chain().writable(1).add();
    rig.driver().publish();
    rig.process();
    if (!event_idx) {
      EXPECT_EQ(rig.driver().device_flags(), packed() ? spec::event::enable : 0);
    } else if (packed()) {
      EXPECT_EQ(rig.driver().device_flags(), spec::event::descriptor);
      EXPECT_EQ(rig.driver().device_event(), (PackedCursor{3, true}.off_wrap()));
    } else {
      EXPECT_EQ(rig.driver().device_flags(), 0);
      EXPECT_EQ(rig.driver().device_event(), 3);
    }
  }
}

TEST_P(EitherDeviceQueue, KicksAreSuppressedWhileTheQueueIsBusy) {
  auto& rig = running({.without = Features{Feature::event_idx}});
  std::uint16_t flags = 0;
  rig.device.on_request = [&](Request request) {
    flags = rig.driver().device_flags();
    request.complete();
  };
  rig.driver().chain().writable(1).publish();
  rig.process();
  EXPECT_EQ(flags, packed() ? spec::event::disable : spec::used::no_notify);
}

TEST_P(EitherDeviceQueue, ABufferThatComesWhileTheQueueGoesToSleepIsSeenWithoutAKick) {
  auto& rig = running();
  rig.device.on_request = [](Request request) { request.complete(); };
  // Announcing used buffers is the last thing before the second look.
  rig.on_notify = [&](unsigned) {
    if (rig.device.requests < 5) rig.driver().chain().writable(1).publish();
    rig.driver().want_interrupt_at(packed() ? rig.driver().cursor().plus(15, 16).off_wrap()
                                            : static_cast<std::uint16_t>(rig.device.requests));
  };
  rig.driver().chain().writable(1).publish();
  rig.process();
  EXPECT_GE(rig.device.requests, 2U);
  EXPECT_EQ(rig.driver().used_count(), rig.device.requests);
}

TEST_P(EitherDeviceQueue, APollingQueueNeedsNoKickAndAsksForNone) {
  auto& rig = running({.options = {.poll = true}});
  rig.driver().chain().readable("x").writable(1).publish();
  rig.loop.run_once();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 1}}));
  if (packed()) {
    EXPECT_EQ(rig.driver().device_flags(), spec::event::disable);
  } else {
    EXPECT_EQ(rig.driver().device_event(), 0);
  }
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(1).publish();
  rig.loop.run_once();
  ASSERT_EQ(rig.device.kept.size(), 1U);
  rig.device.kept[0].complete();
  rig.loop.run_once();
  EXPECT_EQ(rig.driver().take_used().size(), 1U);
}

// Answers that come later.

TEST_P(EitherDeviceQueue, KeptRequestsAreAnsweredInAnyOrderAndPublishedTogether) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  for (unsigned i = 0; i < 3; ++i) rig.driver().chain().writable(4).writable(4).publish();
  rig.process();
  for (const std::size_t which : {2, 0, 1}) {
    ASSERT_TRUE(rig.device.kept[which].write(le32{static_cast<std::uint32_t>(which)}));
    rig.device.kept[which].complete();
  }
  EXPECT_EQ(rig.driver().used_count(), 0U);  // at the end of the turn, all at once
  rig.settle();
  const auto used = rig.driver().take_used();
  ASSERT_EQ(used.size(), 3U);
  EXPECT_EQ(used[0].id, packed() ? 2U : 4U);
  EXPECT_EQ(used[1].id, 0U);
  EXPECT_EQ(used[2].id, packed() ? 1U : 2U);
  EXPECT_EQ(rig.notified[0], 1U);
}

TEST_P(EitherDeviceQueue, AnAnswerFromAnotherThreadIsCarriedToTheQueuesLoop) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(4).publish();
  rig.process();
  std::thread([&] { rig.device.kept[0].complete(); }).join();
  EXPECT_EQ(rig.driver().used_count(), 0U);
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST_P(EitherDeviceQueue, TokensThatReturnAfterTheDeviceIsGoneDoNothing) {
  auto& rig = running();
  std::vector<Request> tokens;
  rig.device.on_request = [&](Request request) { tokens.push_back(std::move(request)); };
  for (unsigned i = 0; i < 3; ++i) rig.driver().chain().writable(4).publish();
  rig.process();
  ASSERT_EQ(tokens.size(), 3U);
  rig.core.reset();
  tokens[0].complete();
  std::thread([&] { tokens[1].complete(); }).join();
  tokens.clear();
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 0U);
  EXPECT_TRUE(rig.log.empty());
}

TEST_P(EitherDeviceQueue, AnAnswerOnItsWayWhenTheDeviceGoesIsCountedOnce) {
  auto& rig = running();
  std::vector<Request> tokens;
  rig.device.on_request = [&](Request request) { tokens.push_back(std::move(request)); };
  for (unsigned i = 0; i < 2; ++i) rig.driver().chain().writable(4).publish();
  rig.process();
  std::thread([&] { tokens[0].complete(); }).join();
  rig.core.reset();
  rig.settle();
  tokens[1].complete();
  EXPECT_EQ(rig.driver().used_count(), 0U);
}

TEST_P(EitherDeviceQueue, PiecesAreWhereTheDriverPutThem) {
  auto& rig = running();
  auto chain = rig.driver().chain();
  chain.readable("head").readable("body").writable(8).writable(8).writable(1).publish();
  rig.device.on_request = [&](Request request) {
    ASSERT_TRUE(request.skip_readable(4));
    const auto readable = request.readable_pieces(4);
    ASSERT_TRUE(readable);
    ASSERT_EQ(readable->size(), 1U);
    EXPECT_EQ(readable->front().iov_base, rig.driver().at(chain.at(1)));
    EXPECT_FALSE(request.readable_pieces(1));
    const auto writable = request.writable_pieces(12);
    ASSERT_TRUE(writable);
    std::uint64_t total = 0;
    for (const iovec& piece : *writable) {
      std::memset(piece.iov_base, 'w', piece.iov_len);
      total += piece.iov_len;
    }
    EXPECT_EQ(total, 12U);
    EXPECT_EQ(request.written(), 0U);
    request.pieces_written(10);
    EXPECT_EQ(request.written(), 10U);
    request.pieces_written(1000);  // more than there were: what there were
    EXPECT_EQ(request.written(), 12U);
    ASSERT_TRUE(request.write_zeros(4));
    ASSERT_TRUE(request.write(std::uint8_t{7}));
    request.complete();
  };
  rig.process();
  EXPECT_EQ(rig.driver().take_used()[0].length, 17U);
  EXPECT_EQ(rig.driver().text(chain.at(2), 8), "wwwwwwww");
  EXPECT_EQ(rig.driver().text(chain.at(3), 8), std::string_view("wwww\0\0\0\0", 8));
  EXPECT_EQ(*rig.driver().at(chain.at(4)), std::byte{7});
}

// Memory that moves.

TEST_P(EitherDeviceQueue, ARingWhoseMemoryIsAwayIsParkedAndScannedWhenItIsBack) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_TRUE(rig.unmap_driver());  // a kept request pins nothing

  rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, 1U);  // nothing popped
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 0U);  // nothing published
  EXPECT_FALSE(rig.needs_reset());

  rig.map_driver();
  rig.settle();  // nobody kicks
  EXPECT_EQ(rig.device.requests, 2U);
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 0}}));
  EXPECT_EQ(rig.notified[0], 1U);
}

TEST_P(EitherDeviceQueue, AKeptRequestFindsItsMemoryWhereItIsNow) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  auto chain = rig.driver().chain();
  chain.readable("ABCD").writable(4).publish();
  rig.process();
  EXPECT_TRUE(rig.unmap_driver());
  EXPECT_EQ(rig.device.kept[0].read<le32>().error().code(), EFAULT);
  rig.map_driver();
  rig.settle();
  ASSERT_TRUE(rig.device.kept[0].write(*rig.device.kept[0].read<le32>()));
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.driver().text(chain.at(1), 4), "ABCD");
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST_P(EitherDeviceQueue, ABufferThatIsAwayForAMomentWaitsInsteadOfBreakingTheQueue) {
  auto& rig = running();
  auto other = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(other);
  const memory::Mapping more{
      .range = {Iova{0x9000000}, 4096}, .access = Access::read_write, .memory = *other, .offset = 0, .port = {}};
  ASSERT_TRUE(rig.map.map(more));
  rig.map.unmap(more.range, [](const Status&) {});
  rig.settle();
  rig.driver().chain().writable_at(Iova{0x9000000}, 4).publish();
  rig.process();
  EXPECT_FALSE(rig.needs_reset());
  EXPECT_EQ(rig.device.requests, 0U);
  ASSERT_TRUE(rig.map.map(more));
  rig.settle();
  EXPECT_EQ(rig.device.requests, 1U);
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST_P(EitherDeviceQueue, ABufferThatStaysAwayBreaksTheQueueAfterAll) {
  auto& rig = running();
  auto other = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(other);
  const memory::Mapping more{
      .range = {Iova{0x9000000}, 4096}, .access = Access::read_write, .memory = *other, .offset = 0, .port = {}};
  ASSERT_TRUE(rig.map.map(more));
  rig.map.unmap(more.range, [](const Status&) {});
  rig.driver().chain().writable_at(Iova{0x9000000}, 4).publish();
  rig.process();
  rig.loop.advance(DeviceQueue::remap_grace - std::chrono::milliseconds(1));
  EXPECT_FALSE(rig.needs_reset());
  rig.loop.advance(std::chrono::milliseconds(2));
  EXPECT_TRUE(rig.needs_reset());
}

TEST_P(EitherDeviceQueue, AnUnmapWaitsForTheIoThatRunsOnItAndForNoOther) {
  auto& rig = running();
  auto other = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(other);
  const memory::Mapping more{
      .range = {Iova{0x9000000}, 4096}, .access = Access::read_write, .memory = *other, .offset = 0, .port = {}};
  ASSERT_TRUE(rig.map.map(more));
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable_at(Iova{0x9000100}, 16).publish();
  rig.driver().chain().writable(16).publish();
  rig.process();
  const auto pieces = rig.device.kept[0].writable_pieces(16);
  ASSERT_TRUE(pieces);
  std::byte* const at = static_cast<std::byte*>(pieces->front().iov_base);

  bool answered = false;
  rig.map.unmap(more.range, [&](const Status&) { answered = true; });
  rig.settle();
  EXPECT_FALSE(answered);
  other->reset();
  std::memset(at, 1, 16);  // the memory is there as long as the I/O
  rig.device.kept[0].pieces_written(16);
  rig.device.kept[0].complete();
  EXPECT_TRUE(answered);
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 1U);

  // The other one's I/O is not on what goes away.
  ASSERT_TRUE(rig.device.kept[1].writable_pieces(16));
  auto again = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(
      rig.map.map({.range = more.range, .access = Access::read_write, .memory = *again, .offset = 0, .port = {}}));
  answered = false;
  rig.map.unmap(more.range, [&](const Status&) { answered = true; });
  EXPECT_TRUE(answered);
}

TEST_P(EitherDeviceQueue, UnpinLetsAnUnmapGoOn) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().readable("data").publish();
  rig.process();
  ASSERT_TRUE(rig.device.kept[0].readable_pieces(4));
  bool answered = false;
  rig.map.unmap(rig.driver().mapping().range, [&](const Status&) { answered = true; });
  EXPECT_FALSE(answered);
  rig.device.kept[0].unpin();
  EXPECT_TRUE(answered);
}

// Files that shrink (the fault guard puts zeroed memory in their place).

TEST_P(EitherDeviceQueue, ARequestWhoseFileShrankBreaksThisDeviceOnly) {
  ASSERT_TRUE(memory::install_fault_guard());
  auto& rig = running();
  const UniqueFd fd = testing::make_memfd(8192);
  auto file = memory::HostMemory::map_file(fd, 0, 8192, Access::read_write);
  ASSERT_TRUE(file);
  ASSERT_TRUE(rig.map.map(
      {.range = {Iova{0x9000000}, 8192}, .access = Access::read_write, .memory = *file, .offset = 0, .port = {}}));
  int code = 0;
  rig.device.on_request = [&](Request request) {
    const auto read = request.read<le64>();
    if (!read) code = read.error().code();
    request.complete();
  };
  rig.driver().chain().readable_at(Iova{0x9001000}, 8).publish();
  ASSERT_EQ(::ftruncate(fd.get(), 4096), 0);
  rig.process();
  EXPECT_EQ(code, EFAULT);
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(rig.driver().used_count(), 0U);
}

TEST_P(EitherDeviceQueue, ARingWhoseFileShrankBreaksTheDevice) {
  ASSERT_TRUE(memory::install_fault_guard());
  auto& rig = make();
  const UniqueFd fd = testing::make_memfd(RingDriver::memory_size);
  auto file = memory::HostMemory::map_file(fd, 0, RingDriver::memory_size, Access::read_write);
  ASSERT_TRUE(file);
  rig.drivers[0] = std::make_unique<RingDriver>(RingDriver::Setup{.packed = packed(), .size = 16, .memory = *file});
  rig.run();
  rig.driver().chain().writable(1).publish();
  ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
  rig.process();
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(rig.device.requests, 0U);
}

// Stop and start.

TEST_P(EitherDeviceQueue, AnIdleQueueStopsWithItsCursors) {
  auto& rig = running();
  for (unsigned i = 0; i < 20; ++i) {
    rig.driver().chain().writable(1).publish();
    rig.process();
    rig.driver().take_used();
  }
  const QueueState state = stop(StopMode::drain);
  EXPECT_EQ(state.next_avail, packed() ? 4 : 20);
  EXPECT_EQ(state.next_used, state.next_avail);
  EXPECT_EQ(state.avail_wrap, !packed());
  EXPECT_TRUE(state.in_flight.empty());
  EXPECT_TRUE(state.enabled);

  rig.driver().chain().writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, 20U);  // stopped
  ASSERT_TRUE(rig.core->start_queue(0, state));
  rig.settle();
  EXPECT_EQ(rig.device.requests, 21U);
  EXPECT_EQ(rig.driver().take_used().size(), 1U);
}

TEST_P(EitherDeviceQueue, DrainPublishesWhatIsRunningAndKeepsWhatIsGivenUp) {
  auto& rig = running();
  std::vector<Request> working;
  rig.device.on_request = [&](Request request) {
    (rig.device.requests % 2 == 0 ? working : rig.device.kept).push_back(std::move(request));
  };
  for (unsigned i = 0; i < 4; ++i) rig.driver().chain().readable("1").writable(1).publish();
  rig.process();
  std::optional<QueueState> state;
  rig.core->stop_queue(0, StopMode::drain, into(state));
  rig.settle();
  EXPECT_FALSE(state);  // two are running
  for (Request& request : working) request.complete();
  rig.settle();
  ASSERT_TRUE(state);
  EXPECT_FALSE(rig.needs_reset());
  EXPECT_EQ(rig.driver().take_used().size(), 2U);
  ASSERT_EQ(state->in_flight.size(), 2U);
  EXPECT_EQ(state->in_flight[0].head, 0);
  EXPECT_EQ(state->in_flight[1].head, 4);
}

TEST_P(EitherDeviceQueue, DiscardPublishesNothingAndKeepsAll) {
  auto& rig = running();
  std::vector<Request> working;
  rig.device.on_request = [&](Request request) { working.push_back(std::move(request)); };
  for (unsigned i = 0; i < 3; ++i) rig.driver().chain().writable(1).publish();
  rig.process();
  std::optional<QueueState> state;
  rig.core->stop_queue(0, StopMode::discard, into(state));
  for (Request& request : working) request.complete();
  rig.settle();
  ASSERT_TRUE(state);
  EXPECT_EQ(rig.driver().used_count(), 0U);
  EXPECT_EQ(state->in_flight.size(), 3U);
}

TEST_P(EitherDeviceQueue, WhatWasAnsweredBeforeAStopIsPublishedByIt) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(1).publish();
  rig.process();
  rig.device.kept[0].complete();
  const QueueState state = stop(StopMode::discard);
  EXPECT_EQ(rig.driver().used_count(), 1U);
  EXPECT_TRUE(state.in_flight.empty());
}

TEST_P(EitherDeviceQueue, BuffersInFlightAreDeliveredAgainFirstAndInOrder) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  const char* const texts[] = {"first", "second", "third"};
  for (const char* text : texts) rig.driver().chain().readable(text).writable(8).publish();
  rig.process();
  const QueueState state = stop(StopMode::drain);
  ASSERT_EQ(state.in_flight.size(), 3U);

  std::vector<std::string> seen;
  rig.device.on_request = [&](Request request) {
    std::string text(request.readable_size(), ' ');
    ASSERT_TRUE(request.read_bytes(std::as_writable_bytes(std::span(text))));
    seen.push_back(text + (request.replayed() ? " again" : ""));
    ASSERT_TRUE(request.write_bytes(std::as_bytes(std::span(text))));
    request.complete();
  };
  rig.driver().chain().readable("new").writable(8).publish();
  ASSERT_TRUE(rig.core->start_queue(0, state));
  rig.settle();
  EXPECT_EQ(seen, (std::vector<std::string>{"first again", "second again", "third again", "new"}));
  EXPECT_EQ(rig.driver().take_used().size(), 4U);
  EXPECT_FALSE(rig.needs_reset());
}

TEST_P(EitherDeviceQueue, ABufferInFlightSurvivesItsSlotsBeingOverwritten) {
  // Packed: used descriptors of buffers that were popped later and finished earlier lie where this one's descriptors
  // were.
  auto& rig = running({.size = 8});
  rig.device.on_request = rig.device.keep();
  auto first = rig.driver().chain();
  first.readable("sur").readable("vivor").writable(8).publish();
  rig.driver().chain().readable("2").writable(1).publish();
  rig.driver().chain().readable("3").writable(1).publish();
  rig.process();
  rig.device.kept[1].complete();
  rig.device.kept[2].complete();
  rig.settle();
  EXPECT_EQ(rig.driver().take_used().size(), 2U);
  const QueueState state = stop(StopMode::drain);
  ASSERT_EQ(state.in_flight.size(), 1U);

  rig.device.on_request = ScriptedDevice::echo;
  ASSERT_TRUE(rig.core->start_queue(0, state));
  rig.settle();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 8}}));
  EXPECT_EQ(rig.driver().text(first.at(2), 8), "survivor");
}

TEST_P(EitherDeviceQueue, AnIndirectBufferInFlightIsDeliveredAgain) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  auto chain = rig.driver().chain();
  chain.indirect().readable("in").readable("direct").writable(8).publish();
  rig.process();
  const QueueState state = stop(StopMode::discard);
  rig.device.on_request = ScriptedDevice::echo;
  ASSERT_TRUE(rig.core->start_queue(0, state));
  rig.settle();
  EXPECT_EQ(rig.driver().text(chain.at(2), 8), "indirect");
}

TEST_P(EitherDeviceQueue, AReplayThatIsStoppedBeforeItBeganIsStillInFlight) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  for (unsigned i = 0; i < 3; ++i) rig.driver().chain().writable(8).publish();
  rig.process();
  const QueueState state = stop(StopMode::drain);
  ASSERT_TRUE(rig.unmap_driver());
  ASSERT_TRUE(rig.core->start_queue(0, state));  // parked: nothing is delivered
  rig.settle();
  EXPECT_EQ(stop(StopMode::drain), state);
}

TEST_P(EitherDeviceQueue, AStopAsAnotherDeviceMayTakeItOver) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  auto chain = rig.driver().chain();
  chain.readable("moved").writable(8).publish();
  rig.process();
  QueueState state = stop(StopMode::drain);

  DeviceRig other({.packed = packed()});
  ASSERT_TRUE(other.map.map(rig.driver().mapping()));
  other.negotiate();
  ASSERT_TRUE(other.core->start_queue(0, state));
  other.driver_ok();
  other.settle();
  EXPECT_EQ(other.core->status(), 0xf);
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 5}}));
  EXPECT_EQ(rig.driver().text(chain.at(1), 5), "moved");
}

TEST_P(EitherDeviceQueue, Row68_AStateThatIsNotConsistentIsRefused) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  for (unsigned i = 0; i < 2; ++i) rig.driver().chain().writable(8).publish();
  rig.process();
  const QueueState good = stop(StopMode::drain);
  const auto refused = [&](auto change) {
    QueueState bad = good;
    change(bad);
    const auto started = rig.core->start_queue(0, bad);
    return !started && started.error().code() == EINVAL;
  };
  EXPECT_TRUE(refused([](QueueState& s) { s.size = 0; }));
  EXPECT_TRUE(refused([](QueueState& s) { s.size = 32; }));
  EXPECT_TRUE(refused([](QueueState& s) { s.descriptors = s.descriptors + 1; }));
  EXPECT_TRUE(refused([](QueueState& s) { s.driver = Iova{UINT64_MAX}; }));
  EXPECT_TRUE(refused([](QueueState& s) { s.device = s.device + 2; }));
  EXPECT_TRUE(refused([](QueueState& s) { s.next_avail = static_cast<std::uint16_t>(s.next_avail + 1); }));
  EXPECT_TRUE(refused([](QueueState& s) { s.next_used = 100; }));
  EXPECT_TRUE(refused([](QueueState& s) { s.in_flight.pop_back(); }));
  EXPECT_TRUE(refused([](QueueState& s) { s.in_flight[0].head = 16; }));
  if (packed()) {
    EXPECT_TRUE(refused([](QueueState& s) { s.avail_wrap = false; }));
    EXPECT_TRUE(refused([](QueueState& s) { s.next_avail = 16; }));
    EXPECT_TRUE(refused([](QueueState& s) { s.in_flight[1].descriptors = 0; }));
    EXPECT_TRUE(refused([](QueueState& s) { s.in_flight[1].chain.clear(); }));
    EXPECT_TRUE(refused([](QueueState& s) {  // as many descriptors as there are, but for a buffer of none
      s.in_flight[0].descriptors = 2;
      s.in_flight[0].chain.push_back(s.in_flight[0].chain[0]);
      s.in_flight[1].descriptors = 0;
      s.in_flight[1].chain.clear();
    }));
  } else {
    EXPECT_TRUE(refused([](QueueState& s) { s.in_flight[1].head = s.in_flight[0].head; }));
  }
  EXPECT_TRUE(rig.core->start_queue(0, good));
  EXPECT_EQ(rig.core->start_queue(0, good).error().code(), EBUSY);
  EXPECT_EQ(rig.core->start_queue(9, good).error().code(), EINVAL);
}

TEST_P(EitherDeviceQueue, AStopInTheMiddleOfAPassLosesNoAnswer) {
  for (const StopMode mode : {StopMode::drain, StopMode::discard}) {
    auto& rig = running();
    std::optional<QueueState> state;
    rig.device.on_request = [&](Request request) {
      if (rig.device.requests == 2) rig.core->stop_queue(0, mode, into(state));
      ScriptedDevice::echo(std::move(request));
    };
    for (unsigned i = 0; i < 3; ++i) rig.driver().chain().readable("x").writable(1).add();
    rig.driver().publish();
    rig.process();
    ASSERT_TRUE(state);
    EXPECT_EQ(rig.device.requests, 2U);
    const auto started = rig.core->start_queue(0, *state);
    ASSERT_TRUE(started) << started.error().message();
    rig.settle();
    EXPECT_EQ(rig.driver().take_used().size(), 3U);
  }
}

TEST_P(EitherDeviceQueue, APauseInTheMiddleOfAPassLosesNoAnswer) {
  auto& rig = running();
  rig.device.on_request = [&](Request request) {
    ScriptedDevice::echo(std::move(request));
    rig.core->set_paused(true);
  };
  for (unsigned i = 0; i < 2; ++i) rig.driver().chain().readable("x").writable(1).add();
  rig.driver().publish();
  rig.process();
  const QueueState state = stop(StopMode::drain);
  rig.device.on_request = ScriptedDevice::echo;
  const auto started = rig.core->start_queue(0, state);
  ASSERT_TRUE(started) << started.error().message();
  rig.core->set_paused(false);
  rig.settle();
  EXPECT_EQ(rig.driver().take_used().size(), 2U);
}

TEST_P(EitherDeviceQueue, StopOfAllQueuesComesWhenTheLastIsQuiet) {
  auto& rig = running({.queues = 3});
  Request working;
  rig.device.on_request = [&](Request request) { working = std::move(request); };
  rig.driver(1).chain().writable(4).publish();
  rig.process(1);
  std::optional<Status> done;
  rig.core->stop(StopMode::drain, [&](Status status) { done = std::move(status); });
  rig.settle();
  EXPECT_FALSE(done);
  working.complete();
  rig.settle();
  ASSERT_TRUE(done);
  EXPECT_TRUE(done->has_value());
}

// Queues on loops of their own.

TEST_P(EitherDeviceQueue, AQueueOnAnotherLoopIsStartedAndStoppedByPosts) {
  testing::ManualLoop queue_loop;
  auto& rig = make({.options = {.queue_loops = {&queue_loop}}});
  rig.run();
  rig.driver().chain().readable("x").writable(1).publish();
  rig.core->kick(0);
  rig.settle();
  EXPECT_EQ(rig.device.requests, 0U);
  queue_loop.run_until_idle();
  EXPECT_EQ(rig.device.requests, 1U);
  EXPECT_EQ(rig.driver().used_count(), 1U);

  rig.core->write_status(0);
  rig.settle();
  EXPECT_NE(rig.core->status(), 0);
  for (unsigned turn = 0; turn < 3; ++turn) {
    queue_loop.run_until_idle();
    rig.settle();
  }
  EXPECT_EQ(rig.core->status(), 0);
}

// The journal.

class NotingJournal final : public Journal {
 public:
  std::vector<std::string> notes;
  RingDriver* driver = nullptr;

  void popped(unsigned, const InFlight& buffer) override {
    notes.push_back(fmt::format("popped {} +{}", buffer.head, buffer.chain.size()));
  }
  void publishing(unsigned, std::span<const UsedBuffer> batch, std::uint16_t next, bool) override {
    notes.push_back(fmt::format("publishing {} to {} seen {}", batch.size(), next, driver->peek_used().size()));
  }
  void published(unsigned, std::span<const UsedBuffer> batch, std::uint16_t next, bool) override {
    notes.push_back(fmt::format("published {} to {} seen {}", batch.size(), next, driver->peek_used().size()));
  }
  void status_changing(std::uint8_t status, const Features&) override {
    notes.push_back(fmt::format("status {:x}", status));
  }
  void queue_starting(unsigned, const QueueState& state, bool packed) override {
    notes.push_back(fmt::format("starting at {} +{} {}", state.next_used, state.in_flight.size(), packed));
  }
  void queue_reset(unsigned queue) override { notes.push_back(fmt::format("reset {}", queue)); }
};

TEST_P(EitherDeviceQueue, TheJournalIsToldBeforeAndAfterEachStep) {
  NotingJournal journal;
  auto& rig = make({.options = {.journal = &journal}});
  journal.driver = &rig.driver();
  rig.run();
  EXPECT_EQ(journal.notes, (std::vector<std::string>{"status 1", "status 3", "status b",
                                                     fmt::format("starting at 0 +0 {}", packed()), "status f"}));
  journal.notes.clear();
  rig.driver().chain().readable(1).writable(1).add();
  rig.driver().chain().writable(1).add();
  rig.driver().publish();
  rig.process();
  const std::vector<std::string> expected =
      packed() ? std::vector<std::string>{"popped 0 +2", "popped 2 +1", "publishing 2 to 3 seen 0",
                                          "published 2 to 3 seen 2"}
               : std::vector<std::string>{"popped 0 +0", "popped 2 +0", "publishing 2 to 2 seen 0",
                                          "published 2 to 2 seen 2"};
  EXPECT_EQ(journal.notes, expected);
  journal.notes.clear();
  rig.core->write_status(0);
  EXPECT_EQ(journal.notes, (std::vector<std::string>{"status 0"}));
}

// IN_ORDER.

TEST_P(EitherDeviceQueue, InOrderAnAnswerWaitsForThoseBeforeIt) {
  auto& rig = running({.options = {.in_order = true}});
  rig.device.on_request = rig.device.keep();
  for (unsigned i = 0; i < 3; ++i) rig.driver().chain().writable(1).writable(1).publish();
  rig.process();
  const auto finish = [&](std::size_t which) {
    ASSERT_TRUE(rig.device.kept[which].write(std::uint8_t{1}));
    rig.device.kept[which].complete();
    rig.settle();
  };
  finish(2);
  finish(1);
  EXPECT_EQ(rig.driver().used_count(), 0U);
  finish(0);
  const auto used = rig.driver().take_used();
  ASSERT_EQ(used.size(), 3U);
  for (std::uint32_t i = 0; i < 3; ++i) EXPECT_EQ(used[i], (RingDriver::Used{packed() ? i : 2 * i, 1}));
}

TEST_P(EitherDeviceQueue, InOrderOneEntryMayStandForBuffersThatWereFilled) {
  auto& rig = running({.options = {.in_order = true}});
  rig.device.on_request = [](Request request) {
    ASSERT_TRUE(request.write_zeros(request.writable_size()));
    request.complete();
  };
  for (unsigned i = 0; i < 3; ++i) rig.driver().chain().readable(4).writable(4).add();
  rig.driver().publish();
  rig.process();
  if (packed()) {
    EXPECT_EQ(rig.driver().packed_at(0).id, 2);
    EXPECT_TRUE(is_used(rig.driver().packed_at(0).flags, true));
    EXPECT_FALSE(is_used(rig.driver().packed_at(2).flags, true));
  } else {
    EXPECT_EQ(rig.driver().used_idx(), 3);
    EXPECT_EQ(rig.driver().used_entry(0), (RingDriver::Used{4, 4}));
    EXPECT_EQ(rig.driver().used_entry(1), (RingDriver::Used{0, 0}));
  }
  // What comes next is where three buffers later is.
  rig.driver().chain().readable(4).writable(4).publish();
  rig.process();
  if (packed()) {
    EXPECT_TRUE(is_used(rig.driver().packed_at(6).flags, true));
  } else {
    EXPECT_EQ(rig.driver().used_entry(3).id, 6U);
  }
}

// Memory that is reachable only by messages.

class LatePort final : public memory::MemoryPort {
 public:
  std::vector<std::byte> bytes = std::vector<std::byte>(1 << 20);
  std::vector<std::function<void()>> waiting;
  bool late = true;
  int error = 0;
  std::uint64_t largest = 0;

  void read(Iova address, MutableBytes into, Completion done) override {
    largest = std::max<std::uint64_t>(largest, into.size());
    later([this, address, into, done = std::make_shared<Completion>(std::move(done))] {
      std::memcpy(into.data(), bytes.data() + (raw(address) - base), into.size());
      (*done)(error != 0 ? Status(Error(error)) : Status{});
    });
  }
  void write(Iova address, Bytes from, Completion done) override {
    largest = std::max<std::uint64_t>(largest, from.size());
    later([this, address, from, done = std::make_shared<Completion>(std::move(done))] {
      std::memcpy(bytes.data() + (raw(address) - base), from.data(), from.size());
      (*done)(error != 0 ? Status(Error(error)) : Status{});
    });
  }
  std::uint64_t max_transfer() const override { return 65536; }
  bool answer() {
    if (waiting.empty()) return false;
    const auto task = std::move(waiting.front());
    waiting.erase(waiting.begin());
    task();
    return true;
  }
  static constexpr std::uint64_t base = 0x50000000;

 private:
  void later(std::function<void()> task) {
    if (!late) return task();
    waiting.push_back(std::move(task));
  }
};

class Remote : public EitherDeviceQueue {
 protected:
  std::shared_ptr<LatePort> port = std::make_shared<LatePort>();
  DeviceRig& with_port() {
    auto& rig = running();
    EXPECT_TRUE(rig.map.map({.range = {Iova{LatePort::base}, port->bytes.size()},
                             .access = Access::read_write,
                             .memory = {},
                             .offset = 0,
                             .port = port}));
    return rig;
  }
  static Iova far(std::uint64_t offset) { return Iova{LatePort::base + offset}; }
};
INSTANTIATE_TEST_SUITE_P(Rings, Remote, ::testing::Bool(),
                         [](const auto& format) { return format.param ? "Packed" : "Split"; });

TEST_P(Remote, ABufferIsFetchedBeforeItIsHandledAndWrittenBackBeforeItIsUsed) {
  auto& rig = with_port();
  std::memcpy(port->bytes.data() + 100, "remote", 6);
  rig.driver().chain().readable_at(far(100), 6).readable("+near").writable_at(far(5000), 11).publish();
  rig.driver().chain().readable("behind").writable(6).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, 0U);  // and the one behind waits, so that the order is kept
  ASSERT_TRUE(port->answer());
  rig.settle();
  EXPECT_EQ(rig.device.requests, 2U);
  ASSERT_TRUE(port->answer());
  rig.settle();
  EXPECT_EQ(std::memcmp(port->bytes.data() + 5000, "remote+near", 11), 0);
  EXPECT_EQ(rig.driver().take_used().size(), 2U);
}

TEST_P(Remote, PiecesOfACopyAreOfTheCopy) {
  auto& rig = with_port();
  port->late = false;
  std::memset(port->bytes.data(), 'r', 200000);
  rig.device.on_request = [&](Request request) {
    const auto from = request.readable_pieces(200000);
    ASSERT_TRUE(from);
    ASSERT_EQ(from->size(), 1U);
    EXPECT_EQ(static_cast<const char*>(from->front().iov_base)[199999], 'r');
    const auto to = request.writable_pieces(100000);
    ASSERT_TRUE(to);
    std::memset(to->front().iov_base, 'w', 100000);
    request.pieces_written(100000);
    request.complete();
  };
  rig.driver().chain().readable_at(far(0), 200000).writable_at(far(400000), 100000).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 100000}}));
  EXPECT_EQ(port->bytes[499999], std::byte{'w'});
  EXPECT_LE(port->largest, 65536U);
}

TEST_P(Remote, ABufferLargerThanWhatIsCopiedBreaksTheQueue) {
  auto& rig = with_port();
  rig.driver().chain().readable_at(far(0), 1 << 20).writable(1).publish();
  rig.process();
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_TRUE(port->waiting.empty());
}

TEST_P(Remote, ATransferThatFailsBreaksTheQueue) {
  auto& rig = with_port();
  port->error = EIO;
  rig.driver().chain().readable_at(far(0), 16).publish();
  rig.process();
  ASSERT_TRUE(port->answer());
  rig.settle();
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(rig.device.requests, 0U);
}

TEST_P(Remote, AnAnswerLetsNobodyPastABufferThatIsBeingFetched) {
  auto& rig = with_port();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(4).publish();
  rig.driver().chain().readable_at(far(0), 16).writable(4).publish();
  rig.driver().chain().writable(8).publish();
  rig.process();
  ASSERT_EQ(rig.device.requests, 1U);
  rig.device.kept[0].complete();
  rig.process();
  EXPECT_EQ(rig.device.requests, 1U);
  // Nor does a map that changes meanwhile.
  auto more = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(rig.map.map(
      {.range = {Iova{0x9000000}, 4096}, .access = Access::read_write, .memory = *more, .offset = 0, .port = {}}));
  rig.process();
  EXPECT_EQ(rig.device.requests, 1U);
  while (port->answer()) rig.settle();
  ASSERT_EQ(rig.device.requests, 3U);
  EXPECT_EQ(rig.device.kept[1].writable_size(), 4U);
  EXPECT_EQ(rig.device.kept[2].writable_size(), 8U);
}

TEST_P(Remote, ABufferThatWaitsForRoomIsTakenWhenTheLastOneIsWrittenBack) {
  auto& rig = with_port();
  rig.device.on_request = rig.device.keep();
  constexpr auto fit = DeviceQueue::max_queue_bounce / DeviceQueue::max_bounce;
  for (unsigned i = 0; i <= fit; ++i) rig.driver().chain().writable_at(far(0), DeviceQueue::max_bounce).publish();
  rig.process();
  ASSERT_EQ(rig.device.requests, fit);
  for (Request& request : rig.device.kept) {
    ASSERT_TRUE(request.write(std::uint8_t{1}));
    request.complete();
  }
  rig.settle();
  EXPECT_EQ(rig.device.requests, fit);
  while (port->answer()) rig.settle();  // nobody kicks
  EXPECT_EQ(rig.driver().used_count(), fit);
  EXPECT_EQ(rig.device.requests, fit + 1);
}

TEST_P(Remote, AStopWaitsForTransfers) {
  auto& rig = with_port();
  rig.driver().chain().readable_at(far(0), 16).publish();
  rig.process();
  std::optional<QueueState> state;
  rig.core->stop_queue(0, StopMode::drain, into(state));
  rig.settle();
  EXPECT_FALSE(state);
  ASSERT_TRUE(port->answer());
  rig.settle();
  ASSERT_TRUE(state);
  EXPECT_EQ(state->in_flight.size(), 1U);
  EXPECT_EQ(rig.device.requests, 0U);
  ASSERT_TRUE(rig.core->start_queue(0, *state));
  rig.settle();
  port->late = false;
  while (port->answer()) rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST_P(Remote, TransfersThatEndAfterTheDeviceIsGoneDoNothing) {
  auto& rig = with_port();
  rig.driver().chain().readable_at(far(0), 16).publish();
  rig.process();
  rig.core.reset();
  while (port->answer()) rig.settle();
  EXPECT_EQ(rig.device.requests, 0U);
}

}  // namespace
}  // namespace outboard::virtio
