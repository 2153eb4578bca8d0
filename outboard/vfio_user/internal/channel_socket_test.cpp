#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <outboard/vfio_user/internal/channel.hpp>
#include <tests/support/vfio_user_peer.hpp>

// What else a UNIX socket can bring: a byte out of band, and control messages that the kernel adds.

namespace outboard::vfio_user {
namespace {

using testing::open_fds;
using testing::pattern;
using testing::VfioUserPeer;

bool is_readable(int fd) {
  pollfd state{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&state, 1, 0) == 1;
}

/// False on a kernel before 5.15, whose UNIX sockets send nothing out of band.
bool send_out_of_band(const VfioUserPeer& peer, Bytes bytes) {
  return ::send(peer.socket().get(), bytes.data(), bytes.size(), MSG_OOB | MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}

/// Takes all that has come. What one look does not find, the next one does not find either.
std::vector<std::size_t> payloads_of_all(Channel& channel) {
  std::vector<std::size_t> sizes;
  while (true) {
    while (channel.ready().value()) sizes.push_back(channel.take().payload.size());
    if (channel.receive(Channel::Wait::no).value() != Channel::Received::data) return sizes;
  }
}

#define SKIP_WITHOUT_OUT_OF_BAND()                                                  \
  if (auto [one, other] = VfioUserPeer::pair(); !send_out_of_band(one, pattern(1))) \
  GTEST_SKIP() << "this kernel has no MSG_OOB for UNIX sockets"

// Where a message was posted or a header has begun, the channel looks before it receives.
TEST(ChannelSocket, VU89_AByteOutOfBandDoesNotKeepTheSocketReadable) {
  SKIP_WITHOUT_OUT_OF_BAND();
  for (const std::size_t begun : {0u, 5u, 20u}) {
    for (const std::uint32_t flags : {0u, spec::flag::no_reply}) {
      for (const int count : {1, 2, 10}) {
        auto [peer, socket] = VfioUserPeer::pair();
        Channel channel(std::move(socket), {});
        peer.send(std::uint16_t{10}, pattern(17), {.flags = flags});
        EXPECT_EQ(payloads_of_all(channel), std::vector<std::size_t>{17});
        const auto next = peer.message(10, pattern(17), {});
        if (begun != 0) peer.send_bytes(Bytes(next).first(begun));
        for (int i = 0; i < count; ++i) ASSERT_TRUE(send_out_of_band(peer, pattern(1)));
        EXPECT_TRUE(payloads_of_all(channel).empty());
        EXPECT_FALSE(is_readable(channel.fd())) << begun << ' ' << flags << ' ' << count;
      }
    }
  }
}

TEST(ChannelSocket, VU89_AByteOutOfBandIsDataLikeAnyOther) {
  SKIP_WITHOUT_OUT_OF_BAND();
  for (std::size_t at = 0; at < 48; ++at) {
    auto [peer, socket] = VfioUserPeer::pair();
    Channel channel(std::move(socket), {});
    const auto message = peer.message(9, pattern(32), {});
    peer.send(std::uint16_t{10}, pattern(17), {.flags = spec::flag::no_reply});
    if (at != 0) peer.send_bytes(Bytes(message).first(at));
    ASSERT_TRUE(send_out_of_band(peer, Bytes(message).subspan(at, 1)));
    if (at != 47) peer.send_bytes(Bytes(message).subspan(at + 1));
    EXPECT_EQ(payloads_of_all(channel), (std::vector<std::size_t>{17, 32})) << at;
    EXPECT_FALSE(channel.partial());
  }
}

// A client may send before it is accepted.
TEST(ChannelSocket, VU89_AByteOutOfBandThatCameFirstIsDataToo) {
  SKIP_WITHOUT_OUT_OF_BAND();
  for (std::size_t at = 0; at < 16; ++at) {
    auto [peer, socket] = VfioUserPeer::pair();
    const auto message = peer.message(1, pattern(4), {});
    if (at != 0) peer.send_bytes(Bytes(message).first(at));
    ASSERT_TRUE(send_out_of_band(peer, Bytes(message).subspan(at, 1)));
    Channel channel(std::move(socket), {});
    EXPECT_TRUE(payloads_of_all(channel).empty());
    EXPECT_FALSE(is_readable(channel.fd()));
    peer.send_bytes(Bytes(message).subspan(at + 1));
    EXPECT_EQ(payloads_of_all(channel), std::vector<std::size_t>{4}) << at;
  }
}

#undef SKIP_WITHOUT_OUT_OF_BAND

constexpr int pass_pidfd = 76;  // SO_PASSPIDFD, which older headers lack

int option(int fd, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  ::getsockopt(fd, SOL_SOCKET, name, &value, &size);
  return value;
}

bool set_option(int fd, int name) {
  const int yes = 1;
  return ::setsockopt(fd, SOL_SOCKET, name, &yes, sizeof yes) == 0;
}

// The accepted sockets of a listening one have them when that one has.
TEST(ChannelSocket, VU90_WhatTheKernelWouldAddToMessagesIsSwitchedOff) {
  for (const int name : {SO_PASSCRED, SO_PASSSEC, pass_pidfd}) {
    auto [peer, socket] = VfioUserPeer::pair();
    if (!set_option(socket.get(), name)) continue;
    const Channel channel(std::move(socket), {});
    EXPECT_EQ(option(channel.fd(), name), 0) << name;
  }
}

TEST(ChannelSocket, VU90_NoPidfdIsLeftOfAMessage) {
  auto [peer, socket] = VfioUserPeer::pair();
  if (!set_option(socket.get(), pass_pidfd)) GTEST_SKIP() << "this kernel has no SO_PASSPIDFD (Linux 6.5)";
  const std::size_t before = open_fds();
  Channel channel(std::move(socket), {});
  for (const std::size_t size : {16u, 17u, 100u, 3000u}) {
    for (const std::uint32_t flags : {0u, spec::flag::no_reply}) {
      peer.send(std::uint16_t{9}, pattern(size), {.flags = flags});
      EXPECT_EQ(payloads_of_all(channel), std::vector<std::size_t>{size});
    }
  }
  EXPECT_EQ(open_fds(), before);
}

}  // namespace
}  // namespace outboard::vfio_user
