// The second socket, on which a server's commands come: as its client uses it.

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <array>

#include <outboard/testing/manual_loop.hpp>
#include <tests/support/vfio_user_client_fixture.hpp>

namespace outboard::vfio_user {
namespace {

using testing::joined;

class ClientTwin : public testing::VfioUserClientTest {
 protected:
  ClientTwin() { options_.twin_socket = true; }

  /// A client whose server has made a second socket.
  void connect_both() {
    auto [ours, clients] = testing::VfioUserPeer::pair();
    twin_ = std::move(ours);
    reply_version_with(R"({"capabilities":{"max_msg_fds":16,"twin_socket":{"supported":true,"fd_index":0}}})",
                       {clients.get()});
    clients.reset();
    reply_info();
    reply_regions();
    reply_irqs();
    auto client = make();
    ASSERT_TRUE(client) << client.error().message();
    client_ = std::move(*client);
    while (const auto request = server_.receive()) next_id_ = static_cast<std::uint16_t>(request->header.msg_id + 1);
    reply(Command::dma_map, next_id_++, {});
    auto buffer = client_->dma().map(memory_, nullptr, 0);
    ASSERT_TRUE(buffer);
    buffer_ = std::move(*buffer);
    server_.receive();
  }
  void TearDown() override {
    if (buffer_) reply(Command::dma_unmap, next_id_++, std::vector<std::byte>(24));
    buffer_.reset();
    client_.reset();
  }
  void reply_version_with(const std::string& json, const std::vector<int>& fds) {
    auto payload = joined(spec::Version{.major = 0, .minor = 0});
    const auto text = std::as_bytes(std::span(json.c_str(), json.size() + 1));
    payload.insert(payload.end(), text.begin(), text.end());
    reply(Command::version, version_id, payload, fds);
  }
  void send_read() {
    twin_.send(Command::dma_read, joined(spec::DmaAccess{.address = raw(buffer_.iova()), .count = 4}));
  }
  int connect_error() {
    const auto client = make();
    return client ? 0 : client.error().code();
  }

  alignas(4096) std::array<std::byte, 8192> bytes_{};
  MutableBytes memory_{bytes_};
  testing::VfioUserPeer twin_;
  memory::DmaBuffer buffer_;
};

TEST_F(ClientTwin, IsOfferedWhereTheOptionSaysSo) {
  connect_both();
  // The first message has been taken by connect_both(): a second client shows it.
  auto [server, socket] = testing::VfioUserPeer::pair();
  EXPECT_FALSE(
      Client::over(std::move(socket), "nobody", {.timeout = std::chrono::milliseconds(1), .twin_socket = true}));
  const auto version = server.receive();
  ASSERT_TRUE(version);
  const std::string json(reinterpret_cast<const char*>(version->data(4).data()), version->data(4).size() - 1);
  EXPECT_NE(json.find(R"("twin_socket":{"supported":true})"), std::string::npos) << json;
}

TEST_F(ClientTwin, CommandsAreServedWhileAReplyIsAwaited) {
  connect_both();
  send_read();
  EXPECT_EQ(read_answered(read_reply(0x1234)).value(), 0x1234U);
  EXPECT_TRUE(client_->process());
  const auto answer = twin_.receive();
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->is_reply());
  EXPECT_EQ(answer->error(), 0);
  EXPECT_EQ(answer->payload.size(), 20U);
}

TEST_F(ClientTwin, CommandsAreServedOnALoop) {
  connect_both();
  testing::ManualLoop loop;
  ASSERT_TRUE(client_->attach(loop));
  loop.run_until_idle();
  send_read();
  loop.run_until_idle();
  EXPECT_TRUE(twin_.receive());
  client_->detach();
}

TEST_F(ClientTwin, AReplyOnTheSecondSocketEndsTheConnection) {
  connect_both();
  twin_.send(Command::region_read, read_reply(1), {.flags = spec::flag::reply, .id = next_id_});
  EXPECT_TRUE(client_->process());
  expect_dead(EPROTO);
  buffer_.reset();
}

TEST_F(ClientTwin, ItsEndIsTheServersEnd) {
  connect_both();
  twin_.close();
  EXPECT_TRUE(client_->process());
  expect_dead(ECONNRESET);
  buffer_.reset();
}

/// vfio-user, Version: with `supported` and without a descriptor that `fd_index` names, the client "must abort".
TEST_F(ClientTwin, WhatIsNoSecondSocketIsRefused) {
  const UniqueFd eventfd(::eventfd(0, EFD_CLOEXEC));
  struct Row {
    const char* twin;
    std::vector<int> fds;
  };
  for (const Row& row : {Row{R"({"supported":true,"fd_index":0})", {}}, Row{R"({"supported":true})", {eventfd.get()}},
                         Row{R"({"supported":true,"fd_index":1})", {eventfd.get()}},
                         Row{R"({"supported":true,"fd_index":0})", {eventfd.get()}}}) {
    auto [peer, socket] = testing::VfioUserPeer::pair();
    server_ = std::move(peer);
    socket_ = std::move(socket);
    reply_version_with(std::string(R"({"capabilities":{"max_msg_fds":16,"twin_socket":)") + row.twin + "}}", row.fds);
    EXPECT_EQ(connect_error(), EPROTO) << row.twin;
    EXPECT_TRUE(server_.closed());
  }
}

TEST_F(ClientTwin, AServerMayDoWithoutIt) {
  connect();
  EXPECT_TRUE(alive());
}

}  // namespace
}  // namespace outboard::vfio_user
