#include <outboard/vfio_user/internal/scratch.hpp>

#include <gtest/gtest.h>

#include <outboard/testing/manual_loop.hpp>
#include <outboard/vfio_user/internal/served_memory.hpp>
#include <outboard/vfio_user/internal/session.hpp>
#include <tests/support/plain_function.hpp>
#include <tests/support/vfio_user_peer.hpp>

namespace outboard::vfio_user {
namespace {

using testing::joined;
using testing::VfioUserPeer;

TEST(Scratch, OfASessionIsGivenBackAfterALongReadWhetherItIsAnsweredOrNot) {
  testing::ManualLoop loop;
  auto function = testing::PlainFunction::factory({})(loop, {}).value();
  auto [peer, socket] = VfioUserPeer::pair();
  const auto session = std::make_shared<Session>(std::move(socket), loop, *function, Log(), Session::Limits{});
  ASSERT_TRUE(session->start([] {}));
  peer.send_version(R"({"capabilities":{}})");
  loop.run_until_idle();
  ASSERT_TRUE(peer.receive());
  constexpr std::uint32_t bar = testing::PlainFunction::bar_size, config = 256;
  for (const std::uint32_t flags : {spec::flag::no_reply, std::uint32_t{0}}) {
    peer.send(std::uint16_t{9}, joined(spec::RegionAccess{.offset = 0, .region = 0, .count = bar}), {.flags = flags});
    loop.run_until_idle();
    EXPECT_LE(session->scratch_size(), ScratchUse::kept);
  }
  peer.send(std::uint16_t{9}, joined(spec::RegionAccess{.offset = 0, .region = 7, .count = config}), {});
  loop.run_until_idle();
  EXPECT_GE(session->scratch_size(), config) << "a short one is kept";
  session->abandon();
}

TEST(Scratch, OfServedMemoryIsGivenBackAfterALongRead) {
  auto [peer, socket] = VfioUserPeer::pair();
  Channel channel(std::move(socket), {});
  ServedMemory memory(std::uint64_t{1} << 20);
  std::vector<std::byte> bytes(std::size_t{1} << 20);
  memory.add({memory::Iova{0}, bytes.size()}, bytes.data(), memory::Access::read_write);
  peer.send(std::uint16_t{11}, joined(spec::DmaAccess{.address = 0, .count = bytes.size()}), {});
  ASSERT_TRUE(channel.receive(Channel::Wait::no));
  ASSERT_TRUE(channel.ready().value());
  ASSERT_TRUE(memory.serve(channel.take(), channel));
  EXPECT_TRUE(peer.receive() || channel.queued() != 0) << "it was answered";
  EXPECT_LE(memory.scratch_size(), ScratchUse::kept);
}

}  // namespace
}  // namespace outboard::vfio_user
