#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>

#include <outboard/vfio_user/internal/negotiation.hpp>
#include <outboard/vfio_user/internal/session.hpp>
#include <tests/support/vfio_user_server_fixture.hpp>

// Rows of docs/spec-map.md (VU) that concern the connection as a whole.

namespace outboard::vfio_user {
namespace {

using testing::joined;
using testing::open_fds;
using testing::PlainFunction;

class ServerConnection : public testing::VfioUserServerTest {
 protected:
  static std::vector<std::byte> read_id() {
    return joined(spec::RegionAccess{.offset = PlainFunction::id_at, .region = 0, .count = 4});
  }
  static std::vector<int> eventfds(int count) {
    std::vector<int> fds;
    for (int i = 0; i < count; ++i) fds.push_back(::eventfd(0, EFD_CLOEXEC));
    return fds;
  }
  static void close_all(const std::vector<int>& fds) {
    for (const int fd : fds) ::close(fd);
  }
  /// A first message that must be refused with EINVAL and end the connection.
  void expect_refused(Peer& peer) {
    pump();
    const auto reply = peer.receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->error(), EINVAL);
    EXPECT_EQ(reply->header.msg_size, 16u);
    EXPECT_TRUE(dropped_and_serving(peer));
  }
};

TEST_F(ServerConnection, VU1_EofBetweenMessagesEndsTheConnectionInOrder) {
  Peer peer = client();
  ASSERT_TRUE(alive(peer));

  peer.close();
  pump();

  EXPECT_FALSE(server_->client());
  Peer next = client();
  EXPECT_TRUE(alive(next));
}

TEST_F(ServerConnection, VU2_EofInsideAMessageDropsItAndItsDescriptors) {
  const auto spare = ::eventfd(0, EFD_CLOEXEC);
  serve();
  const std::size_t before = open_fds();
  for (const std::size_t sent : {3u, 16u, 20u}) {
    Peer peer = client();
    const auto bytes = peer.message(8, testing::pattern(20), {});
    peer.send_bytes(Bytes(bytes).first(sent), {spare});
    pump();
    peer.close();
    pump();
    EXPECT_FALSE(server_->client());
  }
  EXPECT_EQ(open_fds(), before);
  ::close(spare);
}

TEST_F(ServerConnection, VU3_HeaderByteByByteIsPutTogetherAndKeepsItsDescriptors) {
  Peer peer = client();
  enable(peer);
  const int fd = ::eventfd(0, EFD_CLOEXEC);
  const auto payload = joined(vfio_abi::IrqSet{.argsz = 20, .flags = 0x24, .index = 2, .start = 0, .count = 1});
  const auto bytes = peer.message(8, payload, {.id = 77});
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    ASSERT_TRUE(peer.send_bytes(Bytes(bytes).subspan(i, 1), i == 0 ? std::vector<int>{fd} : std::vector<int>{}));
    pump();
  }
  const auto reply = peer.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), 0);
  EXPECT_EQ(reply->header.msg_id, 77);
  function().interrupts().signal_msix(0);
  std::uint64_t count = 0;
  EXPECT_EQ(::read(fd, &count, sizeof count), 8);
  ::close(fd);
}

TEST_F(ServerConnection, VU4_AMessageThatStallsEndsTheConnection) {
  for (const std::size_t sent : {7u, 20u}) {
    Peer peer = client();
    const auto bytes = peer.message(9, read_id(), {});
    peer.send_bytes(Bytes(bytes).first(sent));
    pump();
    loop_.advance(std::chrono::seconds(29));
    EXPECT_FALSE(peer.closed());
    loop_.advance(std::chrono::seconds(2));
    EXPECT_TRUE(dropped_and_serving(peer));
  }
}

TEST_F(ServerConnection, VU4_AClientThatNeverNegotiatesIsDropped) {
  Peer peer = connect();
  loop_.advance(std::chrono::seconds(6));
  EXPECT_TRUE(dropped_and_serving(peer));
}

TEST_F(ServerConnection, VU4_AnIdleClientStays) {
  Peer peer = client();
  loop_.advance(std::chrono::hours(1));
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU5_SizeBelowTheHeaderIsFatal) {
  for (const std::uint32_t size : {0u, 1u, 15u}) {
    Peer peer = client();
    peer.send(Command::region_read, read_id(), {.size = size});
    EXPECT_TRUE(dropped_and_serving(peer));
  }
}

TEST_F(ServerConnection, VU6_SizeAboveTheLimitIsFatal) {
  for (const std::uint32_t size : {0xffffffffu, 0x80000000u, (1u << 20) + 33}) {
    Peer peer = client();
    peer.send(Command::region_read, read_id(), {.size = size});
    EXPECT_TRUE(dropped_and_serving(peer));
  }
}

TEST_F(ServerConnection, VU7_TypeThatIsNeitherCommandNorReplyIsFatal) {
  for (std::uint32_t type = 2; type < 16; ++type) {
    Peer peer = client();
    peer.send(Command::region_read, read_id(), {.flags = type});
    EXPECT_TRUE(dropped_and_serving(peer));
  }
}

TEST_F(ServerConnection, VU8_UnknownFlagsAndAnErrorFieldInACommandAreIgnored) {
  Peer peer = client();
  EXPECT_EQ(error_of(peer, Command::region_read, read_id(), {.flags = 0xffffffc0}), 0);
  EXPECT_EQ(error_of(peer, Command::region_read, read_id(), {.flags = spec::flag::error, .error = 5}), 0);
  EXPECT_EQ(error_of(peer, Command::region_read, read_id(), {.error = 22}), 0);
}

TEST_F(ServerConnection, VU9_MoreDescriptorsThanAdvertisedAreClosedAndRefused) {
  serve({.msix_vectors = 64});
  Peer peer = client();
  const auto payload = joined(vfio_abi::IrqSet{.argsz = 20, .flags = 0x24, .index = 2, .start = 0, .count = 17});
  for (const int count : {17, 18, 200}) {
    const auto fds = eventfds(count);
    const std::size_t before = open_fds();
    EXPECT_EQ(error_of(peer, Command::device_set_irqs, payload, {.fds = fds}), EINVAL);
    EXPECT_EQ(open_fds(), before);
    close_all(fds);
  }
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU9_AsManyDescriptorsAsAdvertisedAreTaken) {
  serve({.msix_vectors = 64});
  Peer peer = client();
  const auto fds = eventfds(16);
  const auto payload = joined(vfio_abi::IrqSet{.argsz = 20, .flags = 0x24, .index = 2, .start = 0, .count = 16});
  EXPECT_EQ(error_of(peer, Command::device_set_irqs, payload, {.fds = fds}), 0);
  close_all(fds);
}

TEST_F(ServerConnection, VU10_DescriptorsWithTheBodyAreClosedAndFatal) {
  const auto fds = eventfds(1);
  serve();
  const std::size_t before = open_fds();
  Peer peer = client();
  const auto bytes = peer.message(8, testing::pattern(20), {});
  peer.send_bytes(Bytes(bytes).first(20));
  pump();
  peer.send_bytes(Bytes(bytes).subspan(20), fds);
  pump();
  EXPECT_TRUE(peer.closed());
  peer.close();
  pump();
  EXPECT_EQ(open_fds(), before);
  close_all(fds);
}

TEST_F(ServerConnection, VU11_DescriptorsWithACommandWithoutAnyAreRefused) {
  Peer peer = client();
  const auto fds = eventfds(18);
  const std::size_t before = open_fds();
  for (const std::size_t count : {1u, 2u, 18u}) {
    const std::vector<int> some(fds.begin(), fds.begin() + static_cast<std::ptrdiff_t>(count));
    for (const std::uint16_t command : {1, 4, 5, 6, 7, 9, 10, 13, 15}) {
      EXPECT_EQ(error_of(peer, command, testing::pattern(32), {.fds = some}), EINVAL) << command;
    }
  }
  EXPECT_EQ(open_fds(), before);
  EXPECT_TRUE(alive(peer));
  close_all(fds);
}

TEST_F(ServerConnection, VU13_AnUnknownCommandWithADescriptorIsRefused) {
  Peer peer = client();
  const auto fds = eventfds(1);
  const std::size_t before = open_fds();
  EXPECT_EQ(error_of(peer, std::uint16_t{99}, {}, {.fds = fds}), ENOSYS);
  EXPECT_EQ(error_of(peer, std::uint16_t{99}, testing::pattern(100), {.fds = fds}), ENOSYS);
  EXPECT_EQ(open_fds(), before);
  EXPECT_TRUE(alive(peer));
  close_all(fds);
}

// C21. None of the commands is done without its descriptor, none with another's.
TEST_F(ServerConnection, VU86_CommandsSentTogetherWithDescriptorsEndTheConnection) {
  const UniqueFd memory = testing::make_sealed_memfd(0x1000);
  const auto event = eventfds(1);
  const auto map = [](std::uint64_t address) {
    return joined(spec::DmaMap{.argsz = 32, .flags = 3, .offset = 0, .address = address, .size = 0x1000});
  };
  const auto set_irqs = [](std::uint32_t flags) {
    return joined(vfio_abi::IrqSet{.argsz = 20, .flags = flags, .index = 2, .start = 0, .count = 1});
  };
  struct Case {
    std::uint16_t first;
    std::vector<std::byte> payload;
    std::vector<int> fds;
  };
  const Case cases[] = {{8, set_irqs(0x24), {event[0], memory.get()}},
                        {8, set_irqs(0x21), {memory.get()}},
                        {2, map(0x2000), {memory.get()}},
                        {2, map(0x2000), {memory.get(), memory.get()}},
                        {5, testing::pattern(32), {memory.get()}}};
  for (const Case& one : cases) {
    for (const bool busy : {false, true}) {
      Peer peer = client();
      auto bytes = peer.message(one.first, one.payload, {});
      const auto last = peer.message(2, map(0x1000), {});
      bytes.insert(bytes.end(), last.begin(), last.end());
      if (busy) peer.send(Command::region_read, read_id(), {});
      peer.send_bytes(bytes, one.fds);
      pump();
      EXPECT_TRUE(peer.closed());
      while (const auto reply = peer.receive()) EXPECT_EQ(reply->header.command, 9);
      pump();
    }
  }
  close_all(event);
}

// As a client does whose memory changes: it waits for none of the replies.
TEST_F(ServerConnection, CommandsThatFollowEachOtherEachWithItsOwnDescriptorAreDone) {
  const UniqueFd memory = testing::make_sealed_memfd(0x1000);
  Peer peer = client();
  const std::vector<int> with{memory.get()};
  peer.send(Command::region_read, read_id(), {});
  for (std::uint64_t page = 1; page < 8; ++page) {
    const auto map =
        joined(spec::DmaMap{.argsz = 32, .flags = 3, .offset = 0, .address = page * 0x1000, .size = 0x1000});
    peer.send(Command::dma_map, map, {.fds = page % 2 == 0 ? with : std::vector<int>{}});
  }
  pump();
  for (int i = 0; i < 8; ++i) {
    const auto reply = peer.receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->header.flags, spec::flag::reply);
  }
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU12_NoDescriptorsLeftToReceiveWithRefusesTheCommand) {
  Peer peer = client();
  const auto fds = eventfds(2);
  const std::size_t before = open_fds();
  rlimit saved{};
  ::getrlimit(RLIMIT_NOFILE, &saved);
  const int probe = ::dup(0);
  rlimit tight = saved;
  tight.rlim_cur = static_cast<rlim_t>(probe) + 1;
  ::close(probe);
  ::setrlimit(RLIMIT_NOFILE, &tight);
  const auto payload = joined(vfio_abi::IrqSet{.argsz = 20, .flags = 0x24, .index = 2, .start = 0, .count = 2});

  const int error = error_of(peer, Command::device_set_irqs, payload, {.fds = fds});

  ::setrlimit(RLIMIT_NOFILE, &saved);
  EXPECT_EQ(error, EINVAL);
  EXPECT_EQ(open_fds(), before);
  EXPECT_TRUE(alive(peer));
  close_all(fds);
}

TEST_F(ServerConnection, VU12_NoDescriptorsLeftToAcceptWithTurnsTheClientAway) {
  Peer peer = client();
  rlimit saved{};
  ::getrlimit(RLIMIT_NOFILE, &saved);
  const int probe = ::dup(0);
  rlimit tight = saved;
  tight.rlim_cur = static_cast<rlim_t>(probe) + 1;  // one more, which the next client's own end takes
  ::close(probe);
  ::setrlimit(RLIMIT_NOFILE, &tight);

  Peer other = Peer::connect_to(path());
  pump();
  const bool turned_away = other.closed();

  ::setrlimit(RLIMIT_NOFILE, &saved);
  EXPECT_TRUE(turned_away);
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU13_UnknownCommandsAreNotImplemented) {
  Peer peer = client();
  for (const std::uint16_t command : {0, 14, 19, 255, 65535}) {
    EXPECT_EQ(error_of(peer, command, testing::pattern(100)), ENOSYS) << command;
  }
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU14_DmaCommandsFromAClientAreRefused) {
  Peer peer = client();
  EXPECT_EQ(error_of(peer, Command::dma_read, testing::pattern(16)), EINVAL);
  EXPECT_EQ(error_of(peer, Command::dma_write, testing::pattern(20)), EINVAL);
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU15_KnownCommandsThatAreNotOfferedAreNotSupported) {
  Peer peer = client(R"({"capabilities":{"max_msg_fds":16}})");
  for (const std::uint16_t command : {15, 16, 17, 18}) {
    EXPECT_EQ(error_of(peer, command, testing::pattern(32)), ENOTSUP) << command;
  }
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU16_ACommandWithNoReplyThatFailsStaysUnanswered) {
  Peer peer = client();
  for (const std::uint16_t command : {0, 2, 3, 5, 8, 9, 10, 15, 16, 19}) {
    EXPECT_EQ(error_of(peer, command, {}, {.flags = spec::flag::no_reply}), -1) << command;
  }
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU16_ACommandWithNoReplyThatFailsIsCounted) {
  const auto function = PlainFunction::create(loop_).value();
  auto [peer, socket] = Peer::pair();
  const auto session = std::make_shared<Session>(std::move(socket), loop_, *function, Log(), Session::Limits{});
  ASSERT_TRUE(session->start([] {}));
  peer.send_version(usual_json);
  peer.send(Command::region_read, read_id(), {.flags = spec::flag::no_reply});
  peer.send(Command::region_read, testing::pattern(15), {.flags = spec::flag::no_reply});
  const int fd = ::eventfd(0, EFD_CLOEXEC);
  const std::size_t before = open_fds();
  peer.send(Command::dma_map, {}, {.flags = spec::flag::no_reply, .fds = {fd}});
  peer.send(std::uint16_t{99}, {}, {.flags = spec::flag::no_reply});
  pump();
  EXPECT_EQ(session->failed_posted(), 3u);
  EXPECT_EQ(open_fds(), before);
  session->abandon();
  ::close(fd);
}

TEST_F(ServerConnection, VU17_NoReplyOnACommandThatOnlyAsksSendsNothing) {
  Peer peer = client();
  EXPECT_EQ(error_of(peer, Command::region_read, read_id(), {.flags = spec::flag::no_reply}), -1);
  EXPECT_EQ(error_of(peer, Command::device_get_info, joined(vfio_abi::DeviceInfo{.argsz = 16}),
                     {.flags = spec::flag::no_reply}),
            -1);
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU19_AReplyThatAnswersNothingIsFatal) {
  Peer peer = client();
  peer.send(Command::dma_read, {}, {.flags = spec::flag::reply, .id = 3});
  EXPECT_TRUE(dropped_and_serving(peer));
  Peer early = connect();
  early.send(Command::version, {}, {.flags = spec::flag::reply, .id = 3});
  EXPECT_TRUE(dropped_and_serving(early));
}

TEST_F(ServerConnection, VU20_AnyCommandBeforeVersionIsRefusedAndEndsTheConnection) {
  for (const std::uint16_t command : {2, 4, 9, 13, 200}) {
    Peer peer = connect();
    peer.send(command, testing::pattern(32), {});
    expect_refused(peer);
  }
}

TEST_F(ServerConnection, VU21_VersionTooShortOrWithDescriptorsIsRefused) {
  Peer shorter = connect();
  shorter.send(Command::version, testing::pattern(3));
  expect_refused(shorter);
  const auto fds = eventfds(1);
  Peer with_fds = connect();
  with_fds.send(Command::version, joined(spec::Version{}), {.fds = fds});
  expect_refused(with_fds);
  close_all(fds);
}

TEST_F(ServerConnection, VU21_VersionThatWantsNoReplyEndsTheConnectionUnanswered) {
  Peer peer = connect();
  peer.send(Command::version, joined(spec::Version{}), {.flags = spec::flag::no_reply});
  pump();
  EXPECT_FALSE(peer.receive());
  EXPECT_TRUE(dropped_and_serving(peer));
}

TEST_F(ServerConnection, VU22_AnotherMajorVersionIsRefused) {
  Peer peer = connect();
  peer.send_version(usual_json, 1);
  expect_refused(peer);
}

TEST_F(ServerConnection, VU23_AHigherMinorVersionIsAnsweredWithOurs) {
  Peer peer = connect();
  peer.send_version(usual_json, 0, 7);
  pump();
  const auto reply = peer.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), 0);
  EXPECT_EQ(reply->at<spec::Version>().minor, spec::version_minor);
}

TEST_F(ServerConnection, VU24_MalformedJsonIsRefused) {
  Peer peer = connect();
  peer.send(Command::version, joined(spec::Version{}, std::array<char, 2>{'{', '}'}));  // no NUL
  expect_refused(peer);
  Peer other = connect();
  other.send_version(R"({"capabilities":)");
  expect_refused(other);
}

TEST_F(ServerConnection, VU26_UnknownCapabilitiesAreIgnored) {
  Peer peer = client(R"({"capabilities":{"max_msg_fds":4,"new_thing":{"a":[1,2.5,null]}},"other":[]})");
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU27_AClientThatTakesNoDescriptorsIsSentNone) {
  Peer peer = client(R"({"capabilities":{"max_msg_fds":0,"max_data_xfer_size":0}})");
  const auto reply =
      exchange(peer, Command::device_get_region_info, joined(vfio_abi::RegionInfo{.argsz = 4096, .index = 0}));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->at<vfio_abi::RegionInfo>().flags, vfio_abi::region_flag::read | vfio_abi::region_flag::write);
  EXPECT_TRUE(reply->fds.empty());
}

TEST_F(ServerConnection, VU28_ASecondVersionIsRefusedAndTheConnectionKept) {
  Peer peer = client();
  peer.send_version(usual_json);
  pump();
  const auto reply = peer.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), EINVAL);
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, AServerMayGoAtAnyMomentOfAClientsEnd) {
  // What it has posted to a loop of somebody else's must not find it gone.
  for (int passes = 0; passes < 6; ++passes) {
    Peer peer = client();
    peer.close();
    for (int i = 0; i < passes; ++i) loop_.run_once();
    server_.reset();
    pump();
  }
}

TEST_F(ServerConnection, VU64_AClientThatNeverReadsIsDroppedInTime) {
  Peer peer = client();
  const auto read_all = joined(spec::RegionAccess{.offset = 0, .region = 0, .count = PlainFunction::bar_size});
  for (int i = 0; i < 40; ++i) {
    peer.send(Command::region_read, read_all);
    pump();
  }
  loop_.advance(std::chrono::seconds(61));
  EXPECT_TRUE(dropped_and_serving(peer));
}

TEST_F(ServerConnection, VU64_DescriptorsOfRepliesThatNobodyReadsAreFew) {
  Peer peer = client();
  const std::size_t before = open_fds();
  constexpr std::uint16_t count = 3000;
  std::vector<std::byte> bytes;
  for (std::uint16_t id = 0; id < count; ++id) {
    const auto one = peer.message(5, joined(vfio_abi::RegionInfo{.argsz = 4096, .index = 0}), {.id = id});
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  ASSERT_TRUE(peer.send_bytes(bytes));
  pump();
  EXPECT_LE(open_fds(), before + Session::max_queued_fds + 1);

  for (std::uint16_t id = 0; id < count; ++id) {
    auto reply = peer.receive();
    if (!reply) {
      pump();
      reply = peer.receive();
    }
    ASSERT_TRUE(reply) << id;
    EXPECT_EQ(reply->header.msg_id, id);
    EXPECT_EQ(reply->fds.size(), 1u);
  }
  EXPECT_EQ(open_fds(), before);
}

TEST_F(ServerConnection, VU66_AFloodOfCommandsIsHeldBackAndAnsweredInOrder) {
  Peer peer = client();
  enable(peer);
  const auto read_much = joined(spec::RegionAccess{.offset = 0, .region = 0, .count = 65536});
  const auto ring = joined(spec::RegionAccess{.offset = PlainFunction::doorbell_at, .region = 0, .count = 4}, 1u);
  std::vector<std::uint16_t> sent;
  while (sent.size() < 100) {
    const auto id = static_cast<std::uint16_t>(1000 + sent.size());
    auto bytes = peer.message(9, read_much, {.id = id});
    const auto posted = peer.message(10, ring, {.flags = spec::flag::no_reply});
    bytes.insert(bytes.end(), posted.begin(), posted.end());
    if (!peer.send_bytes(bytes)) break;
    sent.push_back(id);
  }
  ASSERT_GT(sent.size(), 20u);
  pump();
  // Each read is followed by a posted write, which counts how far the server has gone: until 256 KiB are unread.
  EXPECT_LT(function().doorbell_count(), 10u);
  for (const std::uint16_t id : sent) {
    pump();
    const auto reply = peer.receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->header.msg_id, id);
    EXPECT_EQ(reply->payload.size(), 16u + 65536);
  }
  pump();
  EXPECT_EQ(function().doorbell_count(), sent.size());
}

TEST_F(ServerConnection, VU66_AFloodDoesNotKeepOtherDevicesWaiting) {
  Peer flood = client();
  enable(flood);
  auto other = Server::listen(dir_.path("other"), PlainFunction::factory({}), {.loop = &loop_});
  ASSERT_TRUE(other) << other.error().message();
  Peer peer = Peer::connect_to(dir_.path("other"));
  peer.send_version(usual_json);
  pump();
  ASSERT_TRUE(peer.receive());
  const auto ring = joined(spec::RegionAccess{.offset = PlainFunction::doorbell_at, .region = 0, .count = 4}, 1u);
  constexpr unsigned count = 3000;
  std::vector<std::byte> bytes;
  for (unsigned i = 0; i < count; ++i) {
    const auto one = flood.message(10, ring, {.flags = spec::flag::no_reply});
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  ASSERT_TRUE(flood.send_bytes(bytes));
  peer.send(Command::region_read, joined(spec::RegionAccess{.offset = 0, .region = 7, .count = 4}));

  loop_.run_once();

  EXPECT_TRUE(peer.receive());
  EXPECT_LT(function().doorbell_count(), count);
  pump();
  EXPECT_EQ(function().doorbell_count(), count);
}

TEST_F(ServerConnection, VU66_ATurnOfTheLoopAnswersFewCommands) {
  Peer peer = client();
  constexpr int count = 1000;
  std::vector<std::byte> bytes;
  for (int i = 0; i < count; ++i) {
    const auto one = peer.message(9, read_id(), {});
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  ASSERT_TRUE(peer.send_bytes(bytes));
  loop_.run_once();
  int answered = 0;
  while (peer.receive()) ++answered;
  EXPECT_GT(answered, 0);
  EXPECT_LE(answered, 32);
  for (int before = 0; answered != before;) {
    before = answered;
    pump();
    while (peer.receive()) ++answered;
  }
  EXPECT_EQ(answered, count);
}

TEST_F(ServerConnection, VU65_SilentClientsDoNotKeepTheNextOneFromItsAnswer) {
  Peer peer = client();
  std::vector<Peer> silent;
  for (int i = 0; i < 20; ++i) silent.push_back(connect());
  Peer next = connect();
  next.send_version(usual_json);
  pump();
  const auto reply = next.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), EBUSY);
  EXPECT_TRUE(silent.front().closed());
  EXPECT_FALSE(silent.back().closed());
  silent.back().send_version(usual_json);
  pump();
  EXPECT_TRUE(silent.back().receive());
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU65_ClientsThatWaitForARefusalHoldNoDescriptorsOfOurs) {
  Peer peer = client();
  std::vector<Peer> silent;
  for (int i = 0; i < 8; ++i) silent.push_back(connect());
  pump();
  const auto count = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
  };
  const auto before = count();
  const UniqueFd file = testing::make_sealed_memfd(4096);
  const auto half = peer.message(1, std::vector<std::byte>(64), {.id = 1});
  for (Peer& each : silent) each.send_bytes({half.begin(), half.begin() + 20}, std::vector<int>(16, file.get()));
  pump();
  EXPECT_EQ(count(), before + 1) << "the file here";
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU65_RefusalsAreLoggedAtABoundedRateAndPrintable) {
  std::vector<std::string> lines;
  server_options_.log = Log([&](Level, std::string_view line) { lines.emplace_back(line); });
  std::array<char, 16> name{};
  ::prctl(PR_GET_NAME, name.data());
  ::prctl(PR_SET_NAME, "a\x1b[31mb\nc");
  Peer peer = client();
  for (int i = 0; i < 1000; ++i) {
    Peer other = connect();
    other.send_version(usual_json);
    pump();
    ASSERT_TRUE(other.receive());
  }
  ::prctl(PR_SET_NAME, name.data());
  EXPECT_LE(lines.size(), 20u);
  EXPECT_NE(lines.at(0).find(R"((a\x1b[31mb\x0ac))"), std::string::npos) << lines.at(0);
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU65_ASecondClientIsRefusedAtOnceAndTheFirstUndisturbed) {
  Peer peer = client();
  Peer second = connect();
  second.send_version(usual_json);
  pump();
  const auto reply = second.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), EBUSY);
  EXPECT_EQ(reply->header.msg_size, 16u);
  EXPECT_EQ(reply->header.command, 1);
  EXPECT_TRUE(second.closed());
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerConnection, VU65_AClientThatComesRightAfterAnotherLeftIsServed) {
  Peer peer = client();
  peer.close();
  Peer next = Peer::connect_to(path());  // before the server has noticed
  next.send_version(usual_json);
  pump();
  const auto reply = next.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), 0);
  EXPECT_TRUE(alive(next));
}

TEST_F(ServerConnection, VU85_AClientThatVanishesBeforeItsReplyHarmsNobody) {
  Peer peer = client();
  for (int i = 0; i < 10; ++i) peer.send(Command::region_read, read_id());
  peer.close();
  pump();
  Peer next = client();
  EXPECT_TRUE(alive(next));
}

TEST_F(ServerConnection, VersionReplyFitsTheBufferOfQemu) {
  Peer peer = connect();
  peer.send_version(
      R"({"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,"max_data_xfer_size":1048576,)"
      R"("migration":{"pgsize":4096,"max_bitmap_size":268435456},"write_multiple":true}})");
  pump();
  const auto reply = peer.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), 0);
  EXPECT_LE(reply->header.msg_size, spec::max_version_reply);
  const auto maps = parse_version(reply->payload).value().capabilities.max_dma_maps;
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(reply->payload.data()) + 4),
            fmt::format(R"({{"capabilities":{{"max_msg_fds":16,"max_data_xfer_size":1048576,"max_dma_maps":{},)"
                        R"("write_multiple":true}}}})",
                        maps));
}

TEST_F(ServerConnection, PipelinedCommandsInOneSegmentAreAnsweredInOrder) {
  Peer peer = client();
  std::vector<std::byte> bytes;
  for (std::uint16_t id = 10; id < 60; ++id) {
    const auto one = peer.message(9, read_id(), {.id = id});
    bytes.insert(bytes.end(), one.begin(), one.end());
  }
  peer.send_bytes(bytes);
  pump();
  for (std::uint16_t id = 10; id < 60; ++id) {
    const auto reply = peer.receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->header.msg_id, id);
  }
}

}  // namespace
}  // namespace outboard::vfio_user
