// What a queue writes to its driver's memory is told to a log of writes, if there is one.

#include <algorithm>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/virtio/internal/device_queue_rig_test.hpp>

namespace outboard::virtio {
namespace {

using memory::IovaRange;

class NotedWrites final : public memory::WriteLog {
 public:
  void written(IovaRange range) override { ranges.push_back(range); }
  bool covers(Iova at, std::uint64_t size) const {
    return std::ranges::any_of(ranges, [&](const IovaRange& range) { return range.contains({at, size}); });
  }
  bool touches(Iova at, std::uint64_t size) const {
    return std::ranges::any_of(ranges, [&](const IovaRange& range) { return range.overlaps({at, size}); });
  }
  std::vector<IovaRange> ranges;
};

class LoggedQueue : public EitherDeviceQueue {
 protected:
  DeviceRig& logged() {
    auto& rig = running();
    rig.map.set_write_log(&log);
    return rig;
  }
  NotedWrites log;
};
INSTANTIATE_TEST_SUITE_P(Rings, LoggedQueue, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

TEST_P(LoggedQueue, TellsOfCopiesAndZeroesButNotOfWhatIsRead) {
  auto& rig = logged();
  rig.device.on_request = [](Request request) {
    ASSERT_TRUE(request.read<le32>());
    ASSERT_TRUE(request.write(le32{1}));
    ASSERT_TRUE(request.write_zeros(4));
    request.complete();
  };
  auto chain = rig.driver().chain();
  chain.readable("text").writable(4).writable(4).writable(4).publish();
  rig.process();
  EXPECT_TRUE(log.covers(chain.at(1), 4));
  EXPECT_TRUE(log.covers(chain.at(2), 4));
  EXPECT_FALSE(log.touches(chain.at(3), 4)) << "never written";
  EXPECT_FALSE(log.touches(chain.at(0), 4));
}

TEST_P(LoggedQueue, TellsOfALastByteThatIsWrittenAlone) {
  auto& rig = logged();
  rig.device.on_request = [](Request request) {
    ASSERT_TRUE(request.write_last(std::uint8_t{1}));
    request.complete();
  };
  auto chain = rig.driver().chain();
  chain.writable(16).writable(1).publish();
  rig.process();
  EXPECT_TRUE(log.covers(chain.at(1), 1));
  EXPECT_FALSE(log.touches(chain.at(0), 16));
}

TEST_P(LoggedQueue, TellsOfPiecesBeforeTheBufferIsUsedThoughTheBackEndFailed) {
  auto& rig = logged();
  rig.device.on_request = rig.device.keep();
  auto chain = rig.driver().chain();
  chain.readable("text").writable(64).publish();
  rig.process();
  Request& request = rig.device.kept.at(0);
  ASSERT_TRUE(request.readable_pieces(4));
  ASSERT_TRUE(request.writable_pieces(64));
  EXPECT_FALSE(log.touches(chain.at(1), 64)) << "the back end has not ended";
  ASSERT_TRUE(request.release_pieces(0));
  EXPECT_TRUE(log.covers(chain.at(1), 64));
  EXPECT_FALSE(log.touches(chain.at(0), 4));
  EXPECT_EQ(rig.driver().used_count(), 0U);
}

TEST_P(LoggedQueue, TellsOfTheRingWheneverItStoresThere) {
  auto& rig = logged();
  rig.driver().chain().readable("text").writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.driver().used_count(), 1U);
  EXPECT_TRUE(log.covers(rig.driver().address(2), ring_part(packed(), RingPart::device, 16).size));
  EXPECT_EQ(log.covers(rig.driver().address(0), ring_part(packed(), RingPart::descriptors, 16).size), packed());
  EXPECT_FALSE(log.touches(rig.driver().address(1), 4)) << "the driver's part";
}

TEST_P(LoggedQueue, TellsNobodyOnceTheLogIsTakenAway) {
  auto& rig = logged();
  rig.map.set_write_log(nullptr);
  rig.driver().chain().readable("text").writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.driver().used_count(), 1U);
  EXPECT_TRUE(log.ranges.empty());
}

}  // namespace
}  // namespace outboard::virtio
