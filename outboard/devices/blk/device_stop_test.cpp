// Requests with the storage, and storage of a queue, when queues are stopped.

#include <outboard/devices/blk/device_rig_test.hpp>

#include <gtest/gtest.h>

namespace outboard::blk {
namespace {

TEST_P(BlkDevice, RequestsWithTheStorageAreFinishedBeforeAResetIsDone) {
  // docs/spec-map.md, VD-51: the status does not read 0 while the storage still writes into the driver's memory.
  Rig rig(setup());
  rig.disk->hold = true;
  Chain chain = Chain::of(rig, spec::type::in, 0).writable(513);
  chain.send();
  rig.transport->core().write_status(0);
  rig.pump();
  EXPECT_NE(rig.transport->core().status(), 0);
  rig.disk->release();
  rig.pump();
  EXPECT_EQ(rig.transport->core().status(), 0);
}

TEST_P(BlkDevice, AQueueWithALoopOfItsOwnSharesTheStorageUntilItIsStopped) {
  Rig::Setup with = setup();
  with.own_loop = true;
  Rig rig(with);
  EXPECT_EQ(rig.disk->shared(), 0u);
  EXPECT_EQ(Chain::of(rig, spec::type::in, 3).writable(512).writable(1).run().status(), spec::status::ok);
  EXPECT_EQ(rig.disk->shared(), 1u);
  rig.transport->core().write_status(0);
  rig.pump();
  EXPECT_EQ(rig.transport->core().status(), 0);
  EXPECT_EQ(rig.disk->shared(), 0u);
}

TEST_P(BlkDevice, StorageOfAQueueThatIsStoppedIsKeptForWhatRunsOnIt) {
  Rig::Setup with = setup();
  with.own_loop = true;
  with.refuse_flush = true;  // so that a write is followed by a flush
  const auto types = {spec::type::in, spec::type::out, spec::type::discard, spec::type::write_zeroes};
  for (const auto type : types) {
    Rig rig(with);
    rig.disk->hold = true;
    Chain chain = Chain::of(rig, type, 0);
    if (type == spec::type::in) chain.writable(512);
    if (type == spec::type::out) chain.readable(pattern(512));
    if (type >= spec::type::discard) chain.readable(segment(0, 8) + segment(8, 8) + segment(16, 0));
    chain.writable(1).send();
    rig.transport->core().write_status(0);
    rig.pump();
    EXPECT_NE(rig.transport->core().status(), 0);
    EXPECT_EQ(rig.disk->shared(), 1u);
    // What follows the first step ends from inside the call that starts it.
    rig.disk->hold = false;
    rig.disk->release();
    rig.pump();
    EXPECT_EQ(rig.transport->core().status(), 0);
    EXPECT_EQ(rig.disk->shared(), 0u);
  }
}

}  // namespace
}  // namespace outboard::blk
