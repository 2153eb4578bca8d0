#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>

#include <outboard/base/internal/process_memory.hpp>
#include <outboard/vfio_user/internal/channel.hpp>
#include <tests/support/scarce_memory.hpp>
#include <tests/support/vfio_user_peer.hpp>

namespace outboard::vfio_user {
namespace {

using testing::open_fds;
using testing::pattern;
using testing::VfioUserPeer;

class ChannelTest : public ::testing::Test {
 protected:
  ChannelTest() : ChannelTest(VfioUserPeer::pair()) {}

  /// The next message, reading as often as that takes; nothing when no whole one has come.
  Result<std::optional<Message>> next() {
    while (true) {
      OUTBOARD_TRY(const bool ready, channel_.ready());
      if (ready) return channel_.take();
      OUTBOARD_TRY(const auto received, channel_.receive(Channel::Wait::no));
      if (received != Channel::Received::data) return std::nullopt;
    }
  }
  std::optional<Message> expect_message() {
    auto message = next();
    EXPECT_TRUE(message && *message);
    return message ? std::move(*message) : std::nullopt;
  }
  int make_fd() {
    made_.emplace_back(::eventfd(0, EFD_CLOEXEC));
    return made_.back().get();
  }

  VfioUserPeer peer_;
  Channel channel_;
  std::vector<UniqueFd> made_;

 private:
  explicit ChannelTest(std::pair<VfioUserPeer, UniqueFd> ends)
      : peer_(std::move(ends.first)),
        channel_(std::move(ends.second), {.max_message = 100000, .max_fds = 4, .max_queued = 1 << 20}) {}
};

TEST_F(ChannelTest, TakesManyMessagesFromOneReadAfterAPostedOne) {
  std::vector<std::byte> bytes;
  for (std::uint16_t id = 0; id < 20; ++id) {
    const auto one = peer_.message(9, pattern(id), {.id = id});
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  peer_.send(std::uint16_t{10}, pattern(20), {.flags = spec::flag::no_reply});
  peer_.send_bytes(bytes);
  ASSERT_TRUE(expect_message());
  ASSERT_EQ(channel_.receive(Channel::Wait::no).value(), Channel::Received::data);
  for (std::uint16_t id = 0; id < 20; ++id) {
    ASSERT_TRUE(channel_.ready().value());
    const Message message = channel_.take();
    EXPECT_EQ(message.header.msg_id, id);
    EXPECT_TRUE(std::ranges::equal(message.payload, pattern(id)));
  }
  EXPECT_FALSE(channel_.ready().value());
  EXPECT_FALSE(channel_.partial());
}

TEST_F(ChannelTest, VU3_AnyChunkingGivesTheSameMessages) {
  for (std::size_t chunk = 1; chunk < 70; chunk += 3) {
    std::vector<std::byte> bytes;
    for (std::uint16_t id = 0; id < 3; ++id) {
      const auto one = peer_.message(9, pattern(10u * id), {.id = id});
      bytes.insert(bytes.end(), one.begin(), one.end());
    }
    std::vector<std::uint16_t> ids;
    for (std::size_t at = 0; at < bytes.size(); at += chunk) {
      peer_.send_bytes(Bytes(bytes).subspan(at, std::min(chunk, bytes.size() - at)));
      while (true) {
        auto message = next();
        ASSERT_TRUE(message);
        if (!*message) break;
        ids.push_back((*message)->header.msg_id);
        EXPECT_TRUE(std::ranges::equal((*message)->payload, pattern(10u * (*message)->header.msg_id)));
      }
    }
    EXPECT_EQ(ids, (std::vector<std::uint16_t>{0, 1, 2}));
  }
}

TEST_F(ChannelTest, AMessageLongerThanTheBufferIsPutTogether) {
  peer_.send(std::uint16_t{9}, pattern(90000), {});
  peer_.send(std::uint16_t{9}, pattern(3), {});
  EXPECT_EQ(expect_message()->payload.size(), 90000u);
  EXPECT_EQ(expect_message()->payload.size(), 3u);
}

TEST_F(ChannelTest, DescriptorsBelongToTheMessageThatTheyWereSentWith) {
  peer_.send(std::uint16_t{1}, pattern(5), {.id = 1});
  peer_.send(std::uint16_t{2}, pattern(5), {.id = 2});
  peer_.send(std::uint16_t{3}, pattern(5), {.id = 3, .fds = {make_fd(), make_fd()}});
  peer_.send(std::uint16_t{4}, pattern(5), {.id = 4, .fds = {make_fd()}});
  peer_.send(std::uint16_t{5}, pattern(5), {.id = 5});
  EXPECT_EQ(expect_message()->fds.size(), 0u);
  EXPECT_EQ(expect_message()->fds.size(), 0u);
  EXPECT_EQ(expect_message()->fds.size(), 2u);
  EXPECT_EQ(expect_message()->fds.size(), 1u);
  EXPECT_EQ(expect_message()->fds.size(), 0u);
}

// Of whatever commands: which of them the descriptors were meant for cannot be told, and the others would go on without.
TEST_F(ChannelTest, VU86_DescriptorsSentWithSeveralMessagesAreAnError) {
  const auto error_of = [](const std::vector<std::size_t>& payloads, std::size_t count, bool alone) {
    auto [peer, socket] = VfioUserPeer::pair();
    Channel channel(std::move(socket), {.max_message = 100000, .max_fds = 4});
    const UniqueFd fd(::eventfd(0, EFD_CLOEXEC));
    std::vector<std::byte> bytes;
    for (const std::size_t size : payloads) {
      const auto one = peer.message(2, pattern(size), {});
      bytes.insert(bytes.end(), one.begin(), one.end());
    }
    if (!alone) peer.send(std::uint16_t{9}, pattern(16), {});
    peer.send_bytes(bytes, std::vector<int>(count, fd.get()));
    peer.send(std::uint16_t{2}, pattern(32), {.fds = {fd.get()}});
    const std::size_t before = open_fds();
    if (!alone) {
      EXPECT_TRUE(channel.receive(Channel::Wait::no));
      EXPECT_TRUE(channel.ready().value());
      channel.take();
    }
    const auto received = channel.receive(Channel::Wait::no);
    EXPECT_EQ(open_fds(), before);
    return received ? 0 : received.error().code();
  };
  for (const bool alone : {true, false}) {
    for (const std::size_t count : {1u, 2u, 5u}) {
      EXPECT_EQ(error_of({32, 32}, count, alone), EPROTO) << "two of DMA_MAP";
      EXPECT_EQ(error_of({20, 32}, count, alone), EPROTO) << "SET_IRQS, DMA_MAP";
      EXPECT_EQ(error_of({32, 16}, count, alone), EPROTO) << "DMA_MAP, GET_INFO";
      EXPECT_EQ(error_of({20, 0}, count, alone), EPROTO) << "SET_IRQS, RESET";
      EXPECT_EQ(error_of({0, 20, 32}, count, alone), EPROTO) << "RESET, SET_IRQS, DMA_MAP";
      EXPECT_EQ(error_of({1007, 32}, count, alone), EPROTO) << "the first one is as long as what is looked at";
      EXPECT_EQ(error_of({1008, 32}, count, alone), EPROTO);
      EXPECT_EQ(error_of({2068, 32}, count, alone), EPROTO) << "SET_IRQS with a byte for each vector, DMA_MAP";
    }
  }
}

// The kernel cuts a long send, and its descriptors go with the first piece.
TEST_F(ChannelTest, VU86_DescriptorsWithALongSendOfCommandsAreAnError) {
  const auto error_of = [](int send_buffer, const std::vector<std::size_t>& payloads) {
    auto [peer, socket] = VfioUserPeer::pair();
    if (send_buffer != 0) ::setsockopt(peer.socket().get(), SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
    Channel channel(std::move(socket), {.max_message = 100000, .max_fds = 4});
    const UniqueFd fd(::eventfd(0, EFD_CLOEXEC));
    std::vector<std::byte> bytes;
    for (const std::size_t size : payloads) {
      const auto one = peer.message(size == 32 ? 2 : 99, pattern(size), {});
      bytes.insert(bytes.end(), one.begin(), one.end());
    }
    const std::size_t before = open_fds();
    EXPECT_TRUE(peer.send_bytes(bytes, {fd.get()}));
    const auto received = channel.receive(Channel::Wait::no);
    EXPECT_EQ(open_fds(), before);
    return received ? 0 : received.error().code();
  };
  EXPECT_EQ(error_of(1, {2240 - 16, 32}), EPROTO) << "the first piece is all of the first message";
  EXPECT_EQ(error_of(0, {36864 - 16, 32}), EPROTO);
  EXPECT_EQ(error_of(1, {4000 - 16, 32}), EPROTO) << "the first piece ends in the first message";
  EXPECT_EQ(error_of(0, {80000 - 16, 32}), EPROTO);
  std::vector<std::size_t> short_ones(60, 35 - 16);
  short_ones.insert(short_ones.end(), {140 - 16, 32});
  EXPECT_EQ(error_of(1, short_ones), EPROTO);
}

TEST_F(ChannelTest, VU86_DescriptorsWithALongSendAreAnErrorBesideAReplyToo) {
  auto bytes = peer_.message(9, {}, {.flags = spec::flag::reply});
  const auto command = peer_.message(2, pattern(3000), {});
  bytes.insert(bytes.end(), command.begin(), command.end());
  peer_.send_bytes(bytes, {make_fd()});
  const auto received = channel_.receive(Channel::Wait::no);
  ASSERT_FALSE(received);
  EXPECT_EQ(received.error().code(), EPROTO);
}

TEST_F(ChannelTest, VU86_DescriptorsInTheRestOfAMessageThatWaitsAreAnError) {
  const auto first = peer_.message(99, pattern(1500), {});
  std::vector<std::byte> rest(first.begin() + 1300, first.end());
  const auto second = peer_.message(2, pattern(32), {});
  rest.insert(rest.end(), second.begin(), second.end());
  peer_.send_bytes(Bytes(first).first(1100));
  peer_.send_bytes(Bytes(first).subspan(1100, 200));
  peer_.send_bytes(rest, {make_fd()});
  const auto message = next();
  ASSERT_FALSE(message);
  EXPECT_EQ(message.error().code(), EPROTO);
}

TEST_F(ChannelTest, DescriptorsBelongToOneOfManySendsThatWait) {
  for (const std::size_t size : {0u, 20u, 32u, 84u, 1007u, 1008u, 1009u, 3000u}) {
    for (const std::size_t with : {20u, 32u, 84u, 1007u, 1008u, 1009u}) {
      peer_.send(std::uint16_t{2}, pattern(size), {});
      peer_.send(std::uint16_t{2}, pattern(with), {.fds = {make_fd(), make_fd()}});
      peer_.send(std::uint16_t{2}, pattern(with), {.fds = {make_fd()}});
      peer_.send(std::uint16_t{2}, pattern(size), {});
      for (const std::size_t fds : {0u, 2u, 1u, 0u}) {
        const auto message = expect_message();
        ASSERT_TRUE(message);
        EXPECT_EQ(message->fds.size(), fds) << size << ' ' << with;
      }
      made_.clear();
    }
  }
}

TEST_F(ChannelTest, DescriptorsOfAMessageThatIsSentInPiecesComeWithIt) {
  const auto bytes = peer_.message(2, pattern(32), {});
  for (const std::size_t first : {1u, 15u, 16u, 17u, 36u, 47u}) {
    peer_.send(std::uint16_t{9}, pattern(16), {});
    peer_.send_bytes(Bytes(bytes).first(first), {make_fd()});
    peer_.send_bytes(Bytes(bytes).subspan(first));
    peer_.send(std::uint16_t{9}, pattern(16), {});
    for (const std::size_t fds : {0u, 1u, 0u}) EXPECT_EQ(expect_message()->fds.size(), fds) << first;
  }
}

TEST_F(ChannelTest, DescriptorsOfAMessageTooShortForThemGoToTheNextOne) {
  for (const std::size_t size : {0u, 4u, 19u}) {
    auto [peer, socket] = VfioUserPeer::pair();
    Channel channel(std::move(socket), {.max_message = 100000, .max_fds = 4});
    auto both = peer.message(8, pattern(size), {});
    const auto second = peer.message(2, pattern(32), {});
    both.insert(both.end(), second.begin(), second.end());
    peer.send_bytes(both, {make_fd()});
    for (const std::size_t fds : {0u, 1u}) {
      while (!channel.ready().value()) ASSERT_TRUE(channel.receive(Channel::Wait::no));
      EXPECT_EQ(channel.take().fds.size(), fds) << size;
    }
  }
}

// However many wait, of whatever size, and posted or not.
TEST_F(ChannelTest, DescriptorsBelongToTheirMessageInAnySequence) {
  static constexpr std::size_t plain_sizes[] = {0, 1, 4, 16, 17, 19, 20, 24, 32, 200, 3000};
  static constexpr std::size_t sizes_with_fds[] = {20, 32, 44, 1100};
  std::uint32_t random = 1;
  const auto draw = [&random](std::size_t below) {
    random = random * 1664525 + 1013904223;
    return (random >> 16) % below;
  };
  const int fds[] = {make_fd(), make_fd(), make_fd(), make_fd()};
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::size_t> expected;
    for (std::size_t count = 1 + draw(6); expected.size() < count;) {
      const std::size_t with = draw(3) == 0 ? 1 + draw(4) : 0;
      const std::size_t size = with != 0 ? sizes_with_fds[draw(4)] : plain_sizes[draw(11)];
      const std::uint32_t flags = draw(2) == 0 ? spec::flag::no_reply : draw(2) == 0 ? spec::flag::reply : 0;
      const std::uint16_t command = with != 0 ? std::uint16_t{8} : std::uint16_t{10};
      peer_.send(command, pattern(size), {.flags = flags, .fds = std::vector<int>(fds, fds + with)});
      expected.push_back(with);
    }
    for (const std::size_t with : expected) {
      const auto message = expect_message();
      ASSERT_TRUE(message);
      ASSERT_EQ(message->fds.size(), with) << "round " << round;
      ASSERT_FALSE(message->fds_lost);
    }
  }
}

TEST_F(ChannelTest, DescriptorsThatComeWithEachPieceOfAHeaderAreSaidToBeLost) {
  const auto bytes = peer_.message(2, pattern(32), {});
  const std::size_t before = open_fds();
  const int one = make_fd(), other = make_fd();
  peer_.send_bytes(Bytes(bytes).first(3), {one});
  EXPECT_FALSE(next().value());
  peer_.send_bytes(Bytes(bytes).subspan(3), {other});
  const auto message = expect_message();
  EXPECT_TRUE(message->fds_lost);
  EXPECT_EQ(open_fds(), before + 2);
}

TEST_F(ChannelTest, WhatALongMessageTookIsGivenBack) {
  const std::size_t before = channel_.buffer_size();
  peer_.send(std::uint16_t{9}, pattern(90000), {});
  EXPECT_EQ(expect_message()->payload.size(), 90000u);
  EXPECT_GE(channel_.buffer_size(), 90000u);
  EXPECT_FALSE(channel_.ready().value());
  EXPECT_EQ(channel_.buffer_size(), before) << "no further message is needed for it";
  peer_.send(std::uint16_t{9}, pattern(3), {});
  EXPECT_EQ(expect_message()->payload.size(), 3u);
}

TEST_F(ChannelTest, AMessageThatThereIsNoMemoryForIsAnErrorOfThisConnection) {
  if (!testing::NoMemoryFor::is_possible()) GTEST_SKIP() << "a sanitizer ends the process instead";
  const auto bytes = pattern(90000);
  peer_.send(std::uint16_t{9}, bytes, {});
  const testing::NoMemoryFor large(bytes.size());
  EXPECT_EQ(next().error().code(), ENOMEM);
  Status sent;
  for (int i = 0; i < 100 && sent; ++i) sent = channel_.send(bytes);
  ASSERT_FALSE(sent) << "the other side reads nothing";
  EXPECT_EQ(sent.error().code(), ENOMEM);
}

/// Bytes of memory that this process has touched: proc(5), statm.
std::uint64_t resident() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t mapped = 0, pages = 0;
  file >> mapped >> pages;
  return pages * page_size();
}

TEST_F(ChannelTest, VU4_AMessageThatIsOnlyAnnouncedTakesNoMemory) {
  if (!testing::NoMemoryFor::is_possible()) GTEST_SKIP() << "a sanitizer touches it";
  constexpr std::uint32_t announced = 64U << 20;
  auto [peer, socket] = VfioUserPeer::pair();
  Channel channel(std::move(socket), {.max_message = announced});
  const auto before = resident();
  peer.send_bytes(as_bytes_of(spec::Header{.msg_id = 1, .command = 9, .msg_size = announced, .flags = 0, .error = 0}));
  ASSERT_EQ(channel.receive(Channel::Wait::no).value(), Channel::Received::data);
  EXPECT_FALSE(channel.ready().value());
  EXPECT_EQ(channel.receive(Channel::Wait::no).value(), Channel::Received::nothing);
  EXPECT_GE(channel.buffer_size(), announced) << "room for the rest";
  EXPECT_LT(resident(), before + announced / 4);
}

TEST_F(ChannelTest, VU66_NoMoreThanAThousandBytesAreReadAhead) {
  for (int i = 0; i < 100; ++i) peer_.send(std::uint16_t{10}, pattern(20), {.flags = spec::flag::no_reply});
  std::vector<std::size_t> messages;
  for (int read = 0; read < 4; ++read) {
    ASSERT_EQ(channel_.receive(Channel::Wait::no).value(), Channel::Received::data);
    messages.push_back(0);
    for (; channel_.ready().value(); ++messages.back()) channel_.take();
  }
  EXPECT_EQ(messages, (std::vector<std::size_t>{1, 1024 / 36, 1, 1024 / 36}))
      << "many once one was posted; of 1024 bytes the last 16 begin a message, whose rest comes by itself";
}

TEST_F(ChannelTest, AMessageThatIsNotPostedIsTakenByItself) {
  for (int i = 0; i < 3; ++i) peer_.send(std::uint16_t{10}, pattern(20), {});
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(channel_.receive(Channel::Wait::no).value(), Channel::Received::data);
    ASSERT_TRUE(channel_.ready().value());
    channel_.take();
    EXPECT_FALSE(channel_.partial());
  }
}

TEST(LookAhead, IsRarerTheMoreOftenItFindsOneMessageOnly) {
  LookAhead look;
  const auto passed_over = [&look] {
    unsigned count = 0;
    while (!look.is_due()) ++count;
    return count;
  };
  std::vector<unsigned> pauses;
  for (int i = 0; i < 7; ++i) {
    pauses.push_back(passed_over());
    look.found(false);
  }
  EXPECT_EQ(pauses, (std::vector<unsigned>{0, 1, 2, 4, 8, 16, 16}));
  EXPECT_EQ(passed_over(), 16u);
  look.found(true);
  EXPECT_EQ(passed_over(), 0u);
  EXPECT_EQ(passed_over(), 0u);
}

TEST_F(ChannelTest, DescriptorsOfALongReplyComeWithIt) {
  const auto bytes = peer_.message(6, pattern(80000), {.flags = spec::flag::reply, .id = 7});
  peer_.send(std::uint16_t{1}, pattern(5), {.id = 6});
  peer_.send_bytes(Bytes(bytes).first(30000), {make_fd()});
  EXPECT_EQ(expect_message()->header.msg_id, 6);
  EXPECT_FALSE(next().value());
  peer_.send_bytes(Bytes(bytes).subspan(30000));
  peer_.send(std::uint16_t{3}, pattern(5), {.id = 8, .fds = {make_fd(), make_fd()}});
  const auto message = expect_message();
  EXPECT_EQ(message->header.msg_id, 7);
  EXPECT_EQ(message->fds.size(), 1u);
  EXPECT_EQ(expect_message()->fds.size(), 2u);
}

TEST_F(ChannelTest, WhatNobodyTakesIsClosed) {
  const int fd = make_fd();
  const std::size_t before = open_fds();
  peer_.send(std::uint16_t{1}, {}, {.fds = {fd, fd}});
  expect_message();
  EXPECT_EQ(open_fds(), before);
  peer_.send(std::uint16_t{1}, pattern(10), {.size = 50, .fds = {fd, fd}});
  EXPECT_FALSE(next().value());
  EXPECT_EQ(open_fds(), before + 2);
  channel_.close();
  EXPECT_EQ(open_fds(), before - 1);  // the socket, too
}

TEST_F(ChannelTest, VU2_EofInsideAMessageIsAnError) {
  peer_.send_bytes(Bytes(pattern(5)));
  peer_.close();
  const auto message = next();
  ASSERT_FALSE(message);
  EXPECT_EQ(message.error().code(), ECONNRESET);
}

TEST_F(ChannelTest, VU1_EofBetweenMessagesIsTheEnd) {
  peer_.send(std::uint16_t{1}, pattern(5), {});
  peer_.close();
  expect_message();
  EXPECT_EQ(channel_.receive(Channel::Wait::no).value(), Channel::Received::end);
}

TEST_F(ChannelTest, VU5And6And7_AHeaderThatIsNoneIsRefusedAsSoonAsItIsThere) {
  const VfioUserPeer::Shape shapes[] = {{.size = 0},          {.size = 15}, {.size = 100001},
                                        {.size = UINT32_MAX}, {.flags = 2}, {.flags = 0x1f}};
  for (const auto& shape : shapes) {
    auto [peer, socket] = VfioUserPeer::pair();
    Channel channel(std::move(socket), {.max_message = 100000, .max_fds = 4});
    peer.send(std::uint16_t{9}, {}, shape);
    EXPECT_EQ(channel.receive(Channel::Wait::no).error().code(), EPROTO);
  }
}

TEST_F(ChannelTest, VU9_TooManyDescriptorsAreAllClosedAndSaidToBeLost) {
  for (const std::size_t count : {5u, 6u, 100u}) {
    std::vector<int> fds(count, make_fd());
    const std::size_t before = open_fds();
    peer_.send(std::uint16_t{1}, pattern(5), {.fds = fds});
    const auto message = expect_message();
    EXPECT_TRUE(message->fds_lost);
    EXPECT_TRUE(message->fds.empty());
    EXPECT_EQ(open_fds(), before);
  }
  peer_.send(std::uint16_t{1}, pattern(5), {.fds = {made_[0].get()}});
  EXPECT_FALSE(expect_message()->fds_lost);
}

TEST_F(ChannelTest, VU10_DescriptorsInTheMiddleOfAMessageAreAnErrorAtOnce) {
  const auto bytes = peer_.message(2, pattern(50), {});
  for (const std::size_t first : {16u, 20u, 65u}) {
    auto [peer, socket] = VfioUserPeer::pair();
    Channel channel(std::move(socket), {.max_message = 100000, .max_fds = 4});
    peer.send_bytes(Bytes(bytes).first(first));
    ASSERT_TRUE(channel.receive(Channel::Wait::no));
    ASSERT_FALSE(channel.ready().value());
    peer.send_bytes(Bytes(bytes).subspan(first, 1), {make_fd()});
    EXPECT_EQ(channel.receive(Channel::Wait::no).error().code(), EPROTO);
  }
}

// The kernel tells no sends apart that are received at once.
TEST_F(ChannelTest, VU10_DescriptorsWithABodyBelongToItsWaitingHeader) {
  const auto bytes = peer_.message(2, pattern(32), {});
  peer_.send_bytes(Bytes(bytes).first(16));
  peer_.send_bytes(Bytes(bytes).subspan(16), {make_fd()});
  EXPECT_EQ(expect_message()->fds.size(), 1u);
}

TEST_F(ChannelTest, VU86_DescriptorsWithPartOfAHeaderBehindAMessageAreAnError) {
  const auto bytes = peer_.message(2, pattern(32), {});
  peer_.send(std::uint16_t{8}, pattern(20), {});
  peer_.send_bytes(Bytes(bytes).first(13), {make_fd()});
  peer_.send_bytes(Bytes(bytes).subspan(13));
  for (const std::size_t fds : {0u, 1u}) EXPECT_EQ(expect_message()->fds.size(), fds);
  peer_.send(std::uint16_t{8}, pattern(20), {});
  peer_.send_bytes(Bytes(bytes).first(12), {make_fd()});
  EXPECT_EQ(next().error().code(), EPROTO);
}

TEST_F(ChannelTest, WhatAFullSocketRefusesIsSentLaterWithItsDescriptors) {
  const int size = 4096;
  ::setsockopt(channel_.fd(), SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  const int fd = make_fd();
  for (std::uint16_t id = 0; id < 100; ++id) {
    const spec::Header header{.msg_id = id, .command = 1, .msg_size = 16 + 3000, .flags = 0, .error = 0};
    const int fds[] = {fd};
    ASSERT_TRUE(channel_.send(as_bytes_of(header), pattern(3000, id),
                              id % 10 == 0 ? std::span<const int>(fds) : std::span<const int>{}));
  }
  EXPECT_GT(channel_.queued(), 0u);
  for (std::uint16_t id = 0; id < 100; ++id) {
    auto message = peer_.receive();
    while (!message) {
      ASSERT_TRUE(channel_.flush());
      message = peer_.receive();
    }
    EXPECT_EQ(message->header.msg_id, id);
    EXPECT_TRUE(std::ranges::equal(message->payload, pattern(3000, id)));
    EXPECT_EQ(message->fds.size(), id % 10 == 0 ? 1u : 0u);
  }
  EXPECT_EQ(channel_.queued(), 0u);
}

TEST_F(ChannelTest, VU64_WhatIsKeptHasABound) {
  const std::size_t before = open_fds();
  Status status;
  int sent = 0;
  const int fds[] = {channel_.fd()};
  for (; sent < 1000 && status; ++sent) {
    const spec::Header header{.msg_id = 1, .command = 1, .msg_size = 16 + 50000, .flags = 0, .error = 0};
    status = channel_.send(as_bytes_of(header), pattern(50000), fds);
  }
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), ENOBUFS);
  EXPECT_LE(channel_.queued(), std::size_t{1} << 20);
  channel_.close();
  peer_.close();
  EXPECT_EQ(open_fds(), before - 2);
}

TEST_F(ChannelTest, VU85_SendingToAPeerThatIsGoneIsAnErrorNotASignal) {
  peer_.close();
  const spec::Header header{.msg_id = 1, .command = 1, .msg_size = 16, .flags = 0, .error = 0};
  const auto sent = channel_.send(as_bytes_of(header));
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code(), EPIPE);
}

}  // namespace
}  // namespace outboard::vfio_user
