// The engine of a device's queue: stop and start, here and on a loop of its own, and the journal.

#include <optional>

#include <gtest/gtest.h>

#include <outboard/virtio/internal/device_queue_rig_test.hpp>

namespace outboard::virtio {
namespace {

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

TEST_P(EitherDeviceQueue, VD68_AStateThatIsNotConsistentIsRefused) {
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

TEST_P(EitherDeviceQueue, ADiscardKeepsAnAnswerThatWaitedForAPausedRing) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  rig.device.gives_up_kept = false;
  for (unsigned i = 0; i < 2; ++i) rig.driver().chain().writable(4).publish();
  rig.process();
  rig.core->set_paused(true);
  rig.device.kept.at(0).complete();
  std::optional<QueueState> state;
  rig.core->stop_queue(0, StopMode::discard, into(state));
  rig.core->set_paused(false);
  rig.device.kept.at(1).complete();
  rig.settle();
  ASSERT_TRUE(state);
  EXPECT_EQ(rig.driver().used_count(), 0U);
  EXPECT_EQ(state->in_flight.size(), 2U);
  const auto started = rig.core->start_queue(0, *state);
  EXPECT_TRUE(started) << started.error().message();
}

TEST_P(EitherDeviceQueue, AnAnswerAfterTheDeviceBrokeLeavesTheBufferInFlight) {
  for (const bool has_pieces : {false, true}) {
    auto& rig = running();
    std::vector<Request> requests;
    rig.device.on_request = [&](Request request) {
      requests.push_back(std::move(request));
      if (requests.size() != 2) return;
      if (has_pieces) {
        EXPECT_TRUE(requests[1].writable_pieces(16));
        EXPECT_TRUE(requests[1].unpin());
      }
      requests[0].violation("5.2.6", "in the same pass");
      requests[1].complete();
    };
    for (int i = 0; i < 2; ++i) rig.driver().chain().writable(16).publish();
    rig.process();
    const QueueState state = stop(StopMode::drain);
    EXPECT_EQ(rig.driver().used_count(), 0U);
    EXPECT_EQ(state.in_flight.size(), 2U);
    EXPECT_TRUE(rig.core->start_queue(0, state)) << "pieces: " << has_pieces;
  }
}

TEST_P(EitherDeviceQueue, AnAnswerBeforeTheDeviceBrokeIsNotLostFromItsState) {
  enum class Answered : std::uint8_t { in_the_pass, after_it, while_paused };
  for (const Answered when : {Answered::in_the_pass, Answered::after_it, Answered::while_paused}) {
    SCOPED_TRACE(static_cast<int>(when));
    auto& rig = running();
    rig.device.gives_up_kept = false;
    const auto break_device = [&] {
      rig.device.kept.at(0).complete();
      rig.device.host->violation("5.2.6", "behind an answer");
    };
    rig.device.on_request = [&](Request request) {
      rig.device.kept.push_back(std::move(request));
      if (rig.device.kept.size() == 3 && when == Answered::in_the_pass) break_device();
    };
    for (int i = 0; i < 3; ++i) rig.driver().chain().writable(16).publish();
    rig.process();
    if (when == Answered::while_paused) rig.core->set_paused(true);
    if (when != Answered::in_the_pass) break_device();
    rig.core->set_paused(false);
    rig.device.kept.clear();
    const QueueState state = stop(StopMode::drain);
    EXPECT_EQ(rig.driver().used_count(), 1U);
    EXPECT_EQ(state.in_flight.size(), 2U);
    const auto started = rig.core->start_queue(0, state);
    EXPECT_TRUE(started) << started.error().message();
  }
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

TEST_P(EitherDeviceQueue, AStopEndsWhenTheAnswerThatItWaitedForHasReturned) {
  void (*const answers[])(Request&) = {[](Request& request) { request.complete(); },
                                       [](Request& request) { request.violation("2.7.1", "as the test wants"); },
                                       [](Request& request) { request = {}; }};
  for (const auto answer : answers) {
    for (const StopMode mode : {StopMode::drain, StopMode::discard}) {
      auto& rig = running();
      rig.device.on_request = rig.device.keep();
      rig.device.gives_up_kept = false;
      rig.driver().chain().writable(4).publish();
      rig.process();
      bool ended = false;
      rig.core->stop_queue(0, mode, [&](const Result<QueueState>&) {
        ended = true;
        rig.core.reset();
      });
      rig.settle();
      answer(rig.device.kept.at(0));
      EXPECT_FALSE(ended) << "the device goes on in there, and whoever waits may destroy it";
      rig.settle();
      EXPECT_TRUE(ended);
    }
  }
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
  HandDriver* driver = nullptr;

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

}  // namespace
}  // namespace outboard::virtio
