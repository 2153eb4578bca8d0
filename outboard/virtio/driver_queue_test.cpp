#include <outboard/virtio/driver_queue.hpp>

#include <cstring>
#include <numeric>
#include <set>

#include <gtest/gtest.h>

#include <outboard/testing/fake_transport.hpp>
#include <outboard/testing/hand_device.hpp>

namespace outboard::virtio {
namespace {

using testing::FakeTransport;
using testing::HandDevice;

/// A queue on a fake transport, and the device's end in the test's hands.
class Rig {
 public:
  Rig(bool packed, const Features& features, std::uint16_t size, DriverQueue::Options options = {}) {
    transport.queue(0).max_size = size;
    options.size = size;
    Features all = features.with(Feature::version_1);
    if (packed) all.set(Feature::ring_packed);
    queue_.emplace(DriverQueue::create(transport, 0, all, options).value());
    device_.emplace(transport, 0, packed);
  }

  DriverQueue& queue() { return *queue_; }
  HandDevice& device() { return *device_; }

  /// Elements of `length` bytes each; the addresses mean nothing.
  Status add(unsigned readable, unsigned writable, std::uintptr_t cookie, std::uint32_t length = 16) {
    std::vector<Element> in(readable, {memory::Iova{0x1000}, length}), out(writable, {memory::Iova{0x2000}, length});
    return queue().add(in, out, reinterpret_cast<void*>(cookie));
  }
  bool submit(unsigned readable, unsigned writable, std::uintptr_t cookie) {
    EXPECT_TRUE(add(readable, writable, cookie));
    return queue().publish();
  }
  /// Cookie and length of the next used buffer; {0, 0} for none.
  std::pair<std::uintptr_t, std::uint32_t> take() {
    const auto used = queue().next_used();
    if (!used) return {UINTPTR_MAX, static_cast<std::uint32_t>(used.error().code())};
    return *used ? std::pair{reinterpret_cast<std::uintptr_t>((*used)->cookie), (*used)->length} : std::pair{0UL, 0U};
  }
  std::size_t rings() { return transport.queue(0).rings.size(); }

  FakeTransport transport;

 private:
  std::optional<DriverQueue> queue_;
  std::optional<HandDevice> device_;
};

using Answer = std::pair<std::uintptr_t, std::uint32_t>;
const Answer nothing{0, 0};
const Answer broken{UINTPTR_MAX, EPROTO};

class EitherRing : public ::testing::TestWithParam<bool> {
 protected:
  bool packed() const { return GetParam(); }
  Rig rig(const Features& features = {}, std::uint16_t size = 8, DriverQueue::Options options = {}) {
    return {packed(), features, size, options};
  }
};
INSTANTIATE_TEST_SUITE_P(, EitherRing, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

TEST_P(EitherRing, ABufferGoesRoundWithItsElementsInOrder) {
  Rig r = rig();
  const Element readable[] = {{memory::Iova{0x1000}, 16}, {memory::Iova{0x3000}, 4096}};
  const Element writable[] = {{memory::Iova{0x9000}, 1}};

  ASSERT_TRUE(r.queue().add(readable, writable, &r));
  EXPECT_FALSE(r.device().pop()) << "not before publish()";
  r.queue().publish();

  const auto chain = r.device().pop();
  ASSERT_TRUE(chain);
  ASSERT_EQ(chain->elements.size(), 3U);
  EXPECT_EQ(chain->elements[0].address, memory::Iova{0x1000});
  EXPECT_FALSE(chain->elements[0].writable);
  EXPECT_EQ(chain->elements[1].length, 4096U);
  EXPECT_TRUE(chain->elements[2].writable);
  EXPECT_EQ(chain->elements[2].address, memory::Iova{0x9000});

  r.device().use(*chain, 1);
  EXPECT_EQ(r.take(), (Answer{reinterpret_cast<std::uintptr_t>(&r), 1}));
  EXPECT_EQ(r.take(), nothing);
  EXPECT_EQ(r.queue().in_flight(), 0);
}

TEST_P(EitherRing, NothingOfABatchIsAvailableBeforeItIsPublished) {
  Rig r = rig();
  for (std::uintptr_t i = 1; i <= 3; ++i) ASSERT_TRUE(r.add(1, 1, i));
  EXPECT_FALSE(r.device().pop());

  EXPECT_TRUE(r.queue().publish());

  for (int i = 0; i < 3; ++i) EXPECT_TRUE(r.device().pop());
  EXPECT_FALSE(r.device().pop());
  EXPECT_EQ(r.rings(), 1U);
  EXPECT_FALSE(r.queue().publish()) << "nothing new";
  EXPECT_EQ(r.rings(), 1U);
}

TEST_P(EitherRing, BuffersMayComeBackInAnyOrderForManyTurns) {
  Rig r = rig({}, packed() ? 7 : 8);
  std::uintptr_t next = 1;
  std::vector<HandDevice::Chain> held;
  std::set<std::uintptr_t> out;
  for (int turn = 0; turn < 200; ++turn) {
    while (r.queue().has_room(2)) {
      out.insert(next);
      r.submit(1, 1, next++);
    }
    while (auto chain = r.device().pop()) held.push_back(*chain);
    const auto victim = held.begin() + turn % static_cast<int>(held.size());
    r.device().use(*victim, 5);
    held.erase(victim);
    const auto [cookie, length] = r.take();
    EXPECT_EQ(out.erase(cookie), 1U);
    EXPECT_EQ(length, 5U);
  }
  EXPECT_EQ(out.size(), r.queue().in_flight());
}

TEST_P(EitherRing, AFullQueueSaysEagainAndHasRoomAgainAfterwards) {
  Rig r = rig({}, 4);
  ASSERT_TRUE(r.add(1, 1, 1));
  ASSERT_TRUE(r.add(1, 1, 2));
  EXPECT_FALSE(r.queue().has_room(1));
  EXPECT_EQ(r.add(1, 0, 3).error().code(), EAGAIN);

  r.queue().publish();
  r.device().use(*r.device().pop(), 0);
  EXPECT_EQ(r.take().first, 1U);

  EXPECT_TRUE(r.queue().has_room(2));
  EXPECT_FALSE(r.queue().has_room(3));
  EXPECT_TRUE(r.add(1, 1, 3));
}

TEST_P(EitherRing, RefusesBuffersThatCannotBe) {
  Rig r = rig({}, 4);
  EXPECT_EQ(r.add(0, 0, 1).error().code(), EINVAL);
  EXPECT_EQ(r.add(1, 1, 1, 0).error().code(), EINVAL) << "empty elements";
  EXPECT_EQ(r.add(3, 2, 1).error().code(), EINVAL) << "longer than the queue";
  EXPECT_EQ(r.add(2, 1, 1, 0x8000'0000).error().code(), EINVAL) << "more than 2^32 bytes";
  EXPECT_TRUE(r.add(1, 1, 1, 0x8000'0000)) << "2^32 bytes are legal";
}

TEST_P(EitherRing, AnIndirectTableTakesOneSlot) {
  Rig r = rig({Feature::indirect_desc}, 4, {.direct_elements = 1});
  for (std::uintptr_t i = 1; i <= 4; ++i) ASSERT_TRUE(r.add(2, 2, i)) << i;
  EXPECT_EQ(r.add(2, 2, 5).error().code(), EAGAIN);
  r.queue().publish();

  for (std::uintptr_t i = 1; i <= 4; ++i) {
    const auto chain = r.device().pop();
    ASSERT_TRUE(chain);
    EXPECT_TRUE(chain->indirect);
    EXPECT_EQ(chain->slots, 1);
    ASSERT_EQ(chain->elements.size(), 4U);
    EXPECT_FALSE(chain->elements[1].writable);
    EXPECT_TRUE(chain->elements[2].writable);
    r.device().use(*chain, 32);
    EXPECT_EQ(r.take(), (Answer{i, 32}));
  }
}

TEST_P(EitherRing, AShortChainStaysInTheRingWhileHalfOfItIsFree) {
  Rig r = rig({Feature::indirect_desc}, 8);
  for (std::uintptr_t i = 1; i <= 3; ++i) r.submit(1, 1, i);
  EXPECT_FALSE(r.device().pop()->indirect);
  EXPECT_FALSE(r.device().pop()->indirect);
  EXPECT_TRUE(r.device().pop()->indirect);
}

TEST_P(EitherRing, AShortChainGoesThroughATableWhereTheRingHasFewerSlots) {
  Rig r = rig({Feature::indirect_desc}, 8);
  // Two in the ring itself, which leaves four slots.
  for (std::uintptr_t i = 1; i <= 6; ++i) EXPECT_TRUE(r.add(1, 1, i)) << i;
  EXPECT_EQ(r.add(1, 0, 7).error().code(), EAGAIN);
}

TEST_P(EitherRing, AChainOfMoreThanTheDirectElementsGoesThroughATable) {
  for (const std::uint16_t direct : {2, 4}) {
    Rig r = rig({Feature::indirect_desc}, 32, {.direct_elements = direct});
    r.submit(direct, 0, 1);
    r.submit(direct, 1, 2);
    EXPECT_FALSE(r.device().pop()->indirect) << direct;
    EXPECT_TRUE(r.device().pop()->indirect) << direct;
  }
}

TEST_P(EitherRing, WithoutTheFeatureThereAreNoTables) {
  Rig r = rig({}, 8, {.direct_elements = 1});
  r.submit(2, 2, 1);
  EXPECT_FALSE(r.device().pop()->indirect);
}

// docs/spec-map.md, VR-1.
TEST_P(EitherRing, AnIdBeyondTheQueueBreaksIt) {
  for (const std::uint32_t id : {8U, 0xffffU, 0x10000U, 0xffffffffU}) {
    if (packed() && id > 0xffff) continue;  // the field has 16 bits
    Rig r = rig();
    r.submit(1, 1, 1);
    r.device().use(id, 0, 2);
    EXPECT_EQ(r.take(), broken) << id;
    EXPECT_TRUE(r.queue().broken());
    EXPECT_EQ(r.take(), broken);
    EXPECT_EQ(r.add(1, 0, 2).error().code(), EIO);
    EXPECT_FALSE(r.queue().publish());
  }
}

// docs/spec-map.md, VR-2.
TEST_P(EitherRing, AnIdThatIsNotInFlightBreaksIt) {
  Rig r = rig();
  r.submit(1, 1, 1);
  const auto chain = r.device().pop();
  r.device().use((chain->id + 3) % 8, 0, 2);
  EXPECT_EQ(r.take(), broken);
}

TEST_P(EitherRing, AnIdThatIsReturnedTwiceBreaksIt) {
  Rig r = rig();
  r.submit(1, 0, 1);
  r.submit(1, 0, 2);
  const auto chain = r.device().pop();
  r.device().use(*chain, 0);
  r.device().use(*chain, 0);
  EXPECT_EQ(r.take().first, 1U);
  EXPECT_EQ(r.take(), broken);
}

TEST_P(EitherRing, AnIdThatIsNotYetPublishedBreaksIt) {
  Rig r = rig();
  r.submit(1, 0, 1);
  const auto first = r.device().pop();
  ASSERT_TRUE(r.add(1, 0, 2));
  r.device().use((first->id + 1) % 8, 0, 1);
  EXPECT_EQ(r.take(), broken);
}

// docs/spec-map.md, VR-3.
TEST_P(EitherRing, AUsedLengthBeyondTheBufferIsCutAndCounted) {
  Rig r = rig();
  r.submit(1, 2, 1);  // 32 writable bytes
  r.device().use(*r.device().pop(), 33);
  EXPECT_EQ(r.take(), (Answer{1, 32}));
  EXPECT_EQ(r.queue().clamped_lengths(), 1U);
  EXPECT_FALSE(r.queue().broken());
}

// docs/spec-map.md, VR-5.
TEST(SplitRing, AUsedIndexThatJumpsOrGoesBackBreaksIt) {
  for (const std::uint16_t index : {2, 9, 0x8000, 0xffff}) {
    Rig r(false, {}, 8);
    r.submit(1, 1, 1);
    r.device().use(*r.device().pop(), 0);
    r.device().set_used_index(index);
    EXPECT_EQ(r.take(), broken) << index;
  }
}

// docs/spec-map.md, VR-6: whatever the device scribbles, the driver goes by its own notes.
TEST_P(EitherRing, ScribblingOverWhatTheDriverWroteChangesNothing) {
  Rig r = rig({}, 8);
  for (std::uintptr_t i = 1; i <= 2; ++i) r.submit(1, 1, i);
  const auto first = r.device().pop(), second = r.device().pop();
  std::memset(r.device().descriptors(), packed() ? 0 : 0xff, 8 * 16);
  if (!packed()) std::memset(r.device().driver_area() + spec::avail::ring, 0xff, 16);

  r.device().use(*second, 16);
  EXPECT_EQ(r.take(), (Answer{2, 16}));
  r.device().use(*first, 16);
  EXPECT_EQ(r.take(), (Answer{1, 16}));

  // All eight slots are free again, and chains are whole.
  for (std::uintptr_t i = 3; i <= 6; ++i) r.submit(1, 1, i);
  for (std::uintptr_t i = 3; i <= 6; ++i) {
    const auto chain = r.device().pop();
    ASSERT_TRUE(chain);
    EXPECT_EQ(chain->slots, 2);
  }
}

// docs/spec-map.md, VR-7.
TEST(PackedRing, ASlotUsedBeforeAnythingIsAvailableBreaksIt) {
  Rig r(true, {}, 8);
  EXPECT_EQ(r.take(), nothing);
  r.device().use(0, 0, 1);
  EXPECT_EQ(r.take(), broken);
}

TEST(PackedRing, HowFarToSkipIsTheDriversOwnKnowledge) {
  Rig r(true, {}, 8);
  r.submit(2, 1, 1);
  r.submit(1, 0, 2);
  const auto first = r.device().pop(), second = r.device().pop();
  r.device().use(first->id, 4, 1);  // three slots, but the device goes on by one
  r.device().use(second->id, 0, 1);
  EXPECT_EQ(r.take(), (Answer{1, 4}));
  EXPECT_EQ(r.take(), nothing) << "the next used descriptor is due three slots on";
}

TEST_P(EitherRing, AsksForNoInterruptUntilItIsTold) {
  for (const bool event_idx : {false, true}) {
    Rig r = rig(event_idx ? Features{Feature::event_idx} : Features{});
    EXPECT_FALSE(r.device().interrupt_wanted(event_idx));
    EXPECT_FALSE(r.queue().enable_interrupts());
    EXPECT_TRUE(r.device().interrupt_wanted(event_idx));
    r.queue().disable_interrupts();
    if (packed() || !event_idx) {
      EXPECT_FALSE(r.device().interrupt_wanted(event_idx));
    }
  }
}

TEST_P(EitherRing, ArmingSeesWhatWasUsedInBetween) {
  for (const bool event_idx : {false, true}) {
    Rig r = rig(event_idx ? Features{Feature::event_idx} : Features{});
    r.submit(1, 1, 1);
    r.device().use(*r.device().pop(), 1);
    EXPECT_TRUE(r.queue().enable_interrupts());
    EXPECT_EQ(r.take().first, 1U);
    EXPECT_FALSE(r.queue().enable_interrupts());
    EXPECT_TRUE(r.device().interrupt_wanted(event_idx));
  }
}

TEST_P(EitherRing, DoesNotRingWhenTheDeviceSuppressesKicks) {
  Rig r = rig();
  r.device().suppress_kicks(true);
  EXPECT_FALSE(r.submit(1, 0, 1));
  r.device().suppress_kicks(false);
  EXPECT_TRUE(r.submit(1, 0, 2));
  EXPECT_EQ(r.transport.queue(0).rings, std::vector<std::uint32_t>{0});
}

TEST_P(EitherRing, WithEventIdxRingsExactlyWhenTheIndexIsPassed) {
  Rig r = rig({Feature::event_idx}, packed() ? 7 : 8);
  for (int turn = 0; turn < 50; ++turn) {
    r.device().want_kick(2);  // when the third from here becomes available
    EXPECT_FALSE(r.submit(1, 0, 1)) << turn;
    EXPECT_FALSE(r.submit(1, 0, 2)) << turn;
    EXPECT_TRUE(r.submit(1, 0, 3)) << turn;
    EXPECT_FALSE(r.submit(1, 0, 4)) << turn;
    while (auto chain = r.device().pop()) r.device().use(*chain, 0);
    while (r.take() != nothing) {
    }
  }
}

TEST_P(EitherRing, ABatchThatPassesTheIndexRings) {
  Rig r = rig({Feature::event_idx});
  r.device().want_kick(1);
  for (std::uintptr_t i = 1; i <= 4; ++i) ASSERT_TRUE(r.add(1, 0, i));
  EXPECT_TRUE(r.queue().publish());
}

TEST(PackedRing, UnknownEventFlagsMeanNotify) {
  Rig r(true, {}, 8);
  for (const std::uint16_t flags : {2, 3}) {  // 2 has no meaning without EVENT_IDX
    const le16 stored = flags;
    std::memcpy(r.device().device_area() + spec::event::flags, &stored, 2);
    EXPECT_TRUE(r.submit(1, 0, 1)) << flags;
  }
}

TEST_P(EitherRing, NotificationDataSaysWhereTheRingStands) {
  Rig r = rig({Feature::notification_data}, 4);
  for (std::uintptr_t i = 1; i <= 3; ++i) {
    r.submit(1, 1, i);
    r.device().use(*r.device().pop(), 0);
    r.take();
  }
  // Split: the free-running index. Packed: the slot, and the wrap counter that has flipped after four slots.
  const auto expected = packed() ? std::vector<std::uint32_t>{0x8002'0000, 0x0000'0000, 0x0002'0000}
                                 : std::vector<std::uint32_t>{0x0001'0000, 0x0002'0000, 0x0003'0000};
  EXPECT_EQ(r.transport.queue(0).rings, expected);
}

TEST_P(EitherRing, InOrderOneEntryMayRetireABatch) {
  Rig r = rig({Feature::in_order}, 16);
  std::vector<HandDevice::Chain> chains;
  for (int turn = 0; turn < 20; ++turn) {
    chains.clear();
    for (std::uintptr_t i = 1; i <= 3; ++i) r.submit(1, 1, i);
    while (auto chain = r.device().pop()) chains.push_back(*chain);
    ASSERT_EQ(chains.size(), 3U);

    r.device().use(chains[2].id, 7, packed() ? 6 : 3);

    EXPECT_EQ(r.take(), (Answer{1, 16})) << "skipped: used completely";
    EXPECT_EQ(r.take(), (Answer{2, 16}));
    EXPECT_EQ(r.take(), (Answer{3, 7}));
    EXPECT_EQ(r.take(), nothing);
  }
}

TEST_P(EitherRing, InOrderAHalfTakenBatchIsSeenByArming) {
  Rig r = rig({Feature::in_order}, 16);
  r.submit(1, 0, 1);
  r.submit(1, 0, 2);
  r.device().pop();
  r.device().use(r.device().pop()->id, 0, 2);
  EXPECT_EQ(r.take().first, 1U);
  EXPECT_TRUE(r.queue().enable_interrupts());
  EXPECT_EQ(r.take().first, 2U);
}

TEST(SplitRing, InOrderDescriptorsAreTakenInRingOrder) {
  Rig r(false, {Feature::in_order}, 8);
  std::uint16_t expected = 0;
  for (int turn = 0; turn < 30; ++turn) {
    r.submit(2, 1, 1);
    const auto chain = r.device().pop();
    EXPECT_EQ(chain->id, expected);
    expected = static_cast<std::uint16_t>((expected + 3) % 8);
    r.device().use(*chain, 0);
    EXPECT_EQ(r.take().first, 1U);
  }
}

TEST(SplitRing, InOrderABatchThatTheIndexDoesNotCoverBreaksIt) {
  Rig r(false, {Feature::in_order}, 8);
  r.submit(1, 0, 1);
  r.submit(1, 0, 2);
  r.device().pop();
  r.device().use(r.device().pop()->id, 0, 1);  // two buffers, the index says one
  EXPECT_EQ(r.take().first, 1U);
  EXPECT_EQ(r.take(), broken);
}

TEST(SplitRing, ASizeIsRoundedDownToAPowerOfTwo) {
  EXPECT_EQ(Rig(false, {}, 100).queue().size(), 64);
  EXPECT_EQ(Rig(false, {}, 0xffff).queue().size(), 32768);
  EXPECT_EQ(Rig(true, {}, 100).queue().size(), 100);
}

TEST_P(EitherRing, AQueueThatIsNotThereIsAnError) {
  FakeTransport transport;
  transport.queue(0).max_size = 0;
  const auto queue = DriverQueue::create(transport, 0, Features{Feature::version_1}, {});
  ASSERT_FALSE(queue);
  EXPECT_EQ(queue.error().code(), ENOENT);
}

// docs/spec-map.md, VR-23.
TEST_P(EitherRing, ARefusedVectorIsSharedThenDoneWithout) {
  FakeTransport transport;
  const auto create = [&] {
    return DriverQueue::create(transport, 0, Features{Feature::version_1}, {.vector = 3}).value();
  };
  EXPECT_EQ(create().vector(), 3U);
  transport.queue(0).refuses_vectors = {3};
  EXPECT_EQ(create().vector(), 0U);
  EXPECT_EQ(transport.queue(0).setup.vector, 0U);
  transport.queue(0).refuses_vectors = {0, 3};
  EXPECT_EQ(create().vector(), std::nullopt);
}

TEST_P(EitherRing, TheDoorbellIsTheQueuesOwn) {
  const Features features =
      packed() ? Features{Feature::version_1, Feature::ring_packed} : Features{Feature::version_1};
  for (const bool data : {false, true}) {
    FakeTransport transport(3);
    auto queue =
        DriverQueue::create(transport, 2, data ? features.with(Feature::notification_data) : features, {}).value();
    const Element element{memory::Iova{0x1000}, 16};
    ASSERT_TRUE(queue.add({&element, 1}, {}, &transport));
    ASSERT_TRUE(queue.publish());
    const std::uint32_t position = packed() ? 0x8001'0000 : 0x0001'0000;
    EXPECT_EQ(transport.queue(2).rings, std::vector<std::uint32_t>{data ? position | 2 : 2});
  }
}

TEST_P(EitherRing, ABrokenQueueIsNotPublishedAndDoesNotRing) {
  Rig r = rig();
  ASSERT_TRUE(r.add(1, 0, 1));
  r.queue().take_in_flight();
  EXPECT_FALSE(r.queue().publish());
  EXPECT_EQ(r.rings(), 0U);
  EXPECT_FALSE(r.device().pop());
}

TEST_P(EitherRing, AfterAResetTheCookiesComeBackInOrder) {
  Rig r = rig();
  for (std::uintptr_t i = 1; i <= 4; ++i) r.submit(1, 0, i);
  r.device().use(*r.device().pop(), 0);
  r.take();
  ASSERT_TRUE(r.add(1, 0, 5));  // not even published

  const auto cookies = r.queue().take_in_flight();

  std::vector<std::uintptr_t> numbers;
  for (void* cookie : cookies) numbers.push_back(reinterpret_cast<std::uintptr_t>(cookie));
  EXPECT_EQ(numbers, (std::vector<std::uintptr_t>{2, 3, 4, 5}));
  EXPECT_EQ(r.queue().in_flight(), 0);
  EXPECT_TRUE(r.queue().broken());
}

}  // namespace
}  // namespace outboard::virtio
