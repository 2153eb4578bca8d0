// The engine of a device's queue: notifications, answers that come later, order.

#include <thread>

#include <gtest/gtest.h>

#include <outboard/virtio/internal/device_queue_rig_test.hpp>

namespace outboard::virtio {
namespace {

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
  for (std::uint32_t i = 0; i < 3; ++i) EXPECT_EQ(used[i], (HandDriver::Used{packed() ? i : 2 * i, 1}));
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
    EXPECT_EQ(rig.driver().used_entry(0), (HandDriver::Used{4, 4}));
    EXPECT_EQ(rig.driver().used_entry(1), (HandDriver::Used{0, 0}));
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

}  // namespace
}  // namespace outboard::virtio
