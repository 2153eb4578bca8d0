// The second socket, on which the server's commands go: as its client sees it.

#include <sys/socket.h>

#include <tests/support/vfio_user_server_fixture.hpp>

namespace outboard::vfio_user {
namespace {

using testing::joined;
using testing::PlainFunction;

constexpr const char* twin_json =
    R"({"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"twin_socket":{"supported":true}}})";

class ServerTwin : public testing::VfioUserServerTest {
 protected:
  static constexpr std::uint64_t base = 0x40000;

  void write_register(Peer& peer, std::uint64_t offset, std::uint32_t value) {
    EXPECT_EQ(error_of(peer, Command::region_write,
                       joined(spec::RegionAccess{.offset = offset, .region = 0, .count = 4}, value)),
              0);
  }
  std::uint32_t read_register(Peer& peer, std::uint64_t offset) {
    const auto reply =
        exchange(peer, Command::region_read, joined(spec::RegionAccess{.offset = offset, .region = 0, .count = 4}));
    return reply ? reply->at<std::uint32_t>(16) : 0;
  }
  /// Both sockets of a client that has offered a second one.
  std::pair<Peer, Peer> two_sockets() {
    Peer peer = connect();
    peer.send_version(twin_json);
    pump();
    auto reply = peer.receive();
    EXPECT_TRUE(reply && reply->error() == 0);
    EXPECT_EQ(reply->fds.size(), 1U);
    const std::string json(reinterpret_cast<const char*>(reply->data(4).data()), reply->data(4).size() - 1);
    EXPECT_NE(json.find(R"("twin_socket":{"supported":true,"fd_index":0})"), std::string::npos) << json;
    Peer twin(std::move(reply->fds.at(0)));
    return {std::move(peer), std::move(twin)};
  }
  /// A DMA_READ of 64 bytes that waits for its answer on the second socket.
  Message start_read(Peer& peer, Peer& twin) {
    EXPECT_EQ(error_of(peer, Command::region_write,
                       joined(spec::RegionAccess{.offset = 4, .region = 7, .count = 2}, std::uint16_t{6})),
              0);
    EXPECT_EQ(error_of(peer, Command::dma_map,
                       joined(spec::DmaMap{.argsz = 32, .flags = 3, .offset = 0, .address = base, .size = 0x1000})),
              0);
    write_register(peer, PlainFunction::dma_address_at, base);
    write_register(peer, PlainFunction::dma_length_at, 64);
    write_register(peer, PlainFunction::dma_command_at, PlainFunction::dma_from_memory);
    auto command = twin.receive();
    EXPECT_TRUE(command);
    EXPECT_FALSE(peer.receive()) << "nothing of it on the first socket";
    return command ? std::move(*command) : Message{};
  }
  static std::vector<std::byte> answer(const Message& command) {
    auto payload = joined(command.at<spec::DmaAccess>());
    const auto data = testing::pattern(64);
    payload.insert(payload.end(), data.begin(), data.end());
    return payload;
  }
  bool ended(Peer& peer) {
    pump();
    while (peer.receive()) {
    }
    return peer.closed();
  }
};

TEST_F(ServerTwin, IsNotMadeForAClientThatDoesNotOfferIt) {
  Peer peer = connect();
  peer.send_version(R"({"capabilities":{"max_msg_fds":16,"twin_socket":{"supported":false}}})");
  pump();
  const auto reply = peer.receive();
  ASSERT_TRUE(reply);
  EXPECT_TRUE(reply->fds.empty());
  const std::string json(reinterpret_cast<const char*>(reply->data(4).data()), reply->data(4).size() - 1);
  EXPECT_EQ(json.find("twin_socket"), std::string::npos);
}

TEST_F(ServerTwin, IsNotMadeForAClientThatTakesNoDescriptors) {
  Peer peer = connect();
  peer.send_version(R"({"capabilities":{"max_msg_fds":0,"twin_socket":{"supported":true}}})");
  pump();
  const auto reply = peer.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), 0);
  EXPECT_TRUE(reply->fds.empty());
}

TEST_F(ServerTwin, CarriesTheServersCommandsAndTheirReplies) {
  auto [peer, twin] = two_sockets();
  const Message command = start_read(peer, twin);
  EXPECT_EQ(command.header.command, static_cast<std::uint16_t>(Command::dma_read));
  EXPECT_EQ(read_register(peer, PlainFunction::dma_status_at), PlainFunction::dma_busy);
  twin.reply(command, answer(command));
  pump();
  EXPECT_EQ(read_register(peer, PlainFunction::dma_status_at), PlainFunction::dma_done);
}

TEST_F(ServerTwin, AReplyOnTheFirstSocketEndsTheConnection) {
  auto [peer, twin] = two_sockets();
  const Message command = start_read(peer, twin);
  peer.reply(command, answer(command));
  EXPECT_TRUE(ended(peer));
  EXPECT_TRUE(twin.closed());
}

TEST_F(ServerTwin, ACommandOnTheSecondSocketEndsTheConnection) {
  auto [peer, twin] = two_sockets();
  twin.send(Command::device_get_info,
            joined(vfio_abi::DeviceInfo{.argsz = 16, .flags = 0, .num_regions = 0, .num_irqs = 0}));
  EXPECT_TRUE(ended(peer));
}

TEST_F(ServerTwin, AReplyThatAnswersNothingEndsTheConnection) {
  auto [peer, twin] = two_sockets();
  Message command = start_read(peer, twin);
  command.header.msg_id = static_cast<std::uint16_t>(command.header.msg_id + 1);
  twin.reply(command, answer(command));
  EXPECT_TRUE(ended(peer));
}

TEST_F(ServerTwin, DescriptorsOnTheSecondSocketEndTheTransfer) {
  auto [peer, twin] = two_sockets();
  const Message command = start_read(peer, twin);
  twin.reply(command, answer(command), {twin.socket().get()});
  pump();
  EXPECT_EQ(read_register(peer, PlainFunction::dma_status_at), PlainFunction::dma_failed + EPROTO);
}

TEST_F(ServerTwin, ClosingEitherSocketEndsTheConnection) {
  for (const bool first : {true, false}) {
    auto [peer, twin] = two_sockets();
    start_read(peer, twin);
    (first ? peer : twin).close();
    Peer& other = first ? twin : peer;
    EXPECT_TRUE(ended(other)) << first;
    pump();
    EXPECT_FALSE(server_->client());
  }
}

TEST_F(ServerTwin, LeavesNoDescriptor) {
  serve();
  pump();
  const std::size_t before = testing::open_fds();
  {
    auto [peer, twin] = two_sockets();
    start_read(peer, twin);
  }
  pump();
  EXPECT_EQ(testing::open_fds(), before);
}

}  // namespace
}  // namespace outboard::vfio_user
