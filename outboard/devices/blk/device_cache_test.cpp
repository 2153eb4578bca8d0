// Cache modes: VIRTIO 1.4, 5.2.6.2, stable writes. D-BI and D-BO are clauses of 5.2.5.2 and 5.2.6.2 (docs/spec-map.md).

#include <array>

#include <outboard/devices/blk/device_rig_test.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace outboard::blk {
namespace {

using ::testing::ElementsAre;

TEST_P(BlkDevice, D_BO_11_WritesAreFlushedOneByOneForADriverThatCannotFlush) {
  Rig::Setup with = setup();
  with.refuse_flush = true;
  Rig rig(with);
  EXPECT_EQ(Chain::of(rig, spec::type::out, 0).readable(pattern(512)).writable(1).run().status(), spec::status::ok);
  EXPECT_EQ(Chain::of(rig, spec::type::write_zeroes, 0).readable(segment(0, 1)).writable(1).run().status(),
            spec::status::ok);
  EXPECT_THAT(rig.disk->calls, ElementsAre(Call{'w', 0, 512}, Call{'f', 0, 0}, Call{'z', 0, 512}, Call{'f', 0, 0}));
}

TEST_P(BlkDevice, D_BO_11_WritesAreNotFlushedForADriverThatCan) {
  Rig rig(setup());
  EXPECT_EQ(Chain::of(rig, spec::type::out, 0).readable(pattern(512)).writable(1).run().status(), spec::status::ok);
  EXPECT_THAT(rig.disk->calls, ElementsAre(Call{'w', 0, 512}));
}

TEST_P(BlkDevice, D_BO_11_WithWriteback0AWriteIsNotCompletedBeforeItsFlush) {
  Rig::Setup with = setup();
  with.refuse_wce = false;
  Rig rig(with);
  EXPECT_EQ(rig.config<std::uint8_t>(32), 1);
  ASSERT_TRUE(rig.transport->write_config(32, as_bytes_of(std::uint8_t{0})));
  EXPECT_EQ(rig.config<std::uint8_t>(32), 0);
  rig.disk->hold = true;
  Chain chain = Chain::of(rig, spec::type::out, 0).readable(pattern(512)).writable(1);
  chain.send();
  EXPECT_EQ(rig.disk->release(), 1u);  // the write
  rig.pump();
  EXPECT_FALSE(chain.answer().used);
  EXPECT_EQ(rig.disk->release(), 1u);  // the flush
  rig.pump();
  EXPECT_EQ(chain.answer().status(), spec::status::ok);
}

TEST_P(BlkDevice, AFlushBehindAWriteThatFailsFailsTheWrite) {
  Rig::Setup with = setup();
  with.refuse_flush = true;
  Rig rig(with);
  rig.disk->fails = [](const Call& call) { return call.kind == 'f' ? EIO : 0; };
  expect_failed(Chain::of(rig, spec::type::out, 0).readable(pattern(512)).writable(1).run(), spec::status::ioerr);
}

TEST_P(BlkDevice, D_BI_2_WritebackStartsAt0WithWceAndWithoutFlush) {
  Rig::Setup with = setup();
  with.refuse_wce = false;
  with.refuse_flush = true;
  EXPECT_EQ(Rig(with).config<std::uint8_t>(32), 0);
}

TEST_P(BlkDevice, WritebackIsWrittenOnlyWhereNegotiatedAndOnlyWith0And1) {
  Rig without(setup());
  ASSERT_TRUE(without.transport->write_config(32, as_bytes_of(std::uint8_t{0})));
  EXPECT_EQ(without.config<std::uint8_t>(32), 1);
  Rig::Setup with = setup();
  with.refuse_wce = false;
  Rig rig(with);
  ASSERT_TRUE(rig.transport->write_config(32, as_bytes_of(std::uint8_t{7})));
  EXPECT_EQ(rig.config<std::uint8_t>(32), 1);
  ASSERT_TRUE(rig.transport->write_config(32, as_bytes_of(le32{0})));  // a wider write that covers it
  EXPECT_EQ(rig.config<std::uint8_t>(32), 0);
  // One that begins before it: the byte at its place counts.
  std::array<std::byte, 9> wide;
  wide.fill(std::byte{0xff});
  wide.back() = std::byte{1};
  ASSERT_TRUE(rig.transport->write_config(24, wide));
  EXPECT_EQ(rig.config<std::uint8_t>(32), 1);
}

}  // namespace
}  // namespace outboard::blk
