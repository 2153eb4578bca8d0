// What outlives the device object.

#include <outboard/devices/blk/device_rig_test.hpp>

#include <gtest/gtest.h>

namespace outboard::blk {
namespace {

constexpr std::uint32_t writeback_at = offsetof(spec::Config, writeback);

virtio::DeviceState capture(Rig& rig) {
  std::optional<virtio::DeviceState> state;
  rig.transport->core().capture([&](Result<virtio::DeviceState> captured) { state = captured.value(); });
  rig.pump();
  EXPECT_TRUE(state);
  return state.value_or(virtio::DeviceState{});
}

/// The same device, as one that has just been made: it knows nothing of its driver any more.
void restore(Rig& rig, const virtio::DeviceState& state) {
  rig.transport->core().write_status(0);
  rig.pump();
  ASSERT_EQ(rig.config<std::uint8_t>(writeback_at), 1);
  const Status restored = rig.transport->core().restore(state);
  ASSERT_TRUE(restored) << restored.error().message();
  rig.pump();
  rig.disk->calls.clear();
}

/// What a write of one sector has the storage do.
std::string calls_of_a_write(Rig& rig) {
  rig.disk->calls.clear();
  const ByteVector data = pattern(512, 5);
  EXPECT_EQ(Chain::of(rig, spec::type::out, 2).readable(data).writable(1).run().status(), spec::status::ok);
  EXPECT_EQ(rig.on_disk(2 * 512, 512), data);
  std::string kinds;
  for (const Call& call : rig.disk->calls) kinds += call.kind;
  return kinds;
}

void set_writeback(Rig& rig, std::uint8_t value) {
  EXPECT_TRUE(rig.transport->write_config(writeback_at, as_bytes_of(value)));
}

TEST_P(BlkDevice, WriteThroughIsPartOfItsState) {
  Rig::Setup with = setup();
  with.refuse_wce = false;
  for (const std::uint8_t chosen : {0, 1}) {
    Rig rig(with);
    set_writeback(rig, chosen);
    const virtio::DeviceState state = capture(rig);
    restore(rig, state);
    EXPECT_EQ(rig.config<std::uint8_t>(writeback_at), chosen);
    EXPECT_EQ(calls_of_a_write(rig), chosen == 0 ? "wf" : "w");
    EXPECT_EQ(capture(rig).device, state.device);
  }
}

TEST_P(BlkDevice, AfterACrashWritesGoThroughWhereTheDriverMayHaveAskedForIt) {
  Rig::Setup with = setup();
  with.refuse_wce = false;
  Rig rig(with);
  virtio::DeviceState state = capture(rig);
  state.device.reset();  // as journal::File::recover() leaves it
  restore(rig, state);
  EXPECT_EQ(rig.config<std::uint8_t>(writeback_at), 0) << "nobody knows what it was";
  EXPECT_EQ(calls_of_a_write(rig), "wf");
  set_writeback(rig, 1);
  EXPECT_EQ(calls_of_a_write(rig), "w") << "until it is told otherwise";
}

TEST_P(BlkDevice, AfterACrashTheCacheModeIsWhatTheDriverAgreedTo) {
  for (const bool refuse_flush : {false, true}) {
    Rig::Setup with = setup();
    with.refuse_flush = refuse_flush;
    Rig rig(with);
    virtio::DeviceState state = capture(rig);
    state.device.reset();
    restore(rig, state);
    EXPECT_EQ(rig.config<std::uint8_t>(writeback_at), refuse_flush ? 0 : 1);
    EXPECT_EQ(calls_of_a_write(rig), refuse_flush ? "wf" : "w");
  }
}

TEST_P(BlkDevice, AStateWithoutAWordOfItIsTakenAsAfterACrash) {
  Rig::Setup with = setup();
  with.refuse_wce = false;
  Rig rig(with);
  virtio::DeviceState state = capture(rig);
  state.device.emplace();  // what earlier versions saved
  restore(rig, state);
  EXPECT_EQ(calls_of_a_write(rig), "wf");
}

TEST_P(BlkDevice, VD68_AStateThatIsNotItsOwnIsRefused) {
  Rig::Setup with = setup();
  with.refuse_flush = true;
  Rig rig(with);
  const ByteVector good = rig.device->save_state().value();
  ASSERT_EQ(good, (ByteVector{std::byte{1}, std::byte{0}}));
  const std::vector<std::pair<const char*, ByteVector>> wrong{
      {"another version", {std::byte{2}, std::byte{0}}},
      {"too short", {std::byte{1}}},
      {"too long", {std::byte{1}, std::byte{0}, std::byte{0}}},
      {"a value that means nothing", {std::byte{1}, std::byte{2}}},
      {"a cache that its driver cannot flush", {std::byte{1}, std::byte{1}}},
  };
  for (const auto& [name, bytes] : wrong) {
    const Status restored = rig.device->restore_state(bytes);
    ASSERT_FALSE(restored) << name;
    EXPECT_EQ(restored.error().code(), EINVAL) << name;
    EXPECT_EQ(rig.device->save_state().value(), good) << name;
  }
  EXPECT_TRUE(rig.device->restore_state(good));
}

}  // namespace
}  // namespace outboard::blk
