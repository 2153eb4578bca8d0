#pragma once

#include <gtest/gtest.h>

#include <optional>

#include <outboard/testing/manual_loop.hpp>
#include <outboard/vfio_user/server.hpp>
#include <tests/support/plain_function.hpp>
#include <tests/support/temp_dir.hpp>
#include <tests/support/vfio_user_peer.hpp>

namespace outboard::testing {

/// A server over a PlainFunction, pumped by the test, and clients whose every byte the test decides.
class VfioUserServerTest : public ::testing::Test {
 protected:
  using Peer = VfioUserPeer;
  using Message = VfioUserPeer::Message;
  using Command = VfioUserPeer::Command;
  using Shape = VfioUserPeer::Shape;

  static constexpr const char* usual_json =
      R"({"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"write_multiple":true}})";

  /// Called by the first connect(), unless the test has done so with options of its own.
  void serve(const PlainFunction::Options& options = {}) {
    vfio_user::Server::Options server_options = server_options_;
    server_options.loop = &loop_;
    auto server = vfio_user::Server::listen(path(), PlainFunction::factory(options, &function_), server_options);
    ASSERT_TRUE(server) << server.error().message();
    server_.emplace(std::move(*server));
  }

  std::string path() const { return dir_.path("s"); }
  PlainFunction& function() { return *function_; }
  void pump() { loop_.run_until_idle(); }

  /// A client that has not said anything yet.
  Peer connect() {
    if (!server_) serve();
    Peer peer = Peer::connect_to(path());
    pump();
    return peer;
  }

  /// A client that has negotiated.
  Peer client(const std::string& json = usual_json) {
    Peer peer = connect();
    peer.send_version(json);
    pump();
    const auto reply = peer.receive();
    EXPECT_TRUE(reply && reply->error() == 0);
    return peer;
  }

  /// Sends a command and returns what came back; nothing where no reply came.
  std::optional<Message> exchange(Peer& peer, std::uint16_t command, Bytes payload, const Shape& shape) {
    const std::uint16_t id = peer.send(command, payload, shape);
    pump();
    auto reply = peer.receive();
    if (reply) {
      EXPECT_TRUE(reply->is_reply());
      EXPECT_EQ(reply->header.msg_id, id);
      EXPECT_EQ(reply->header.command, command);
      EXPECT_EQ(reply->header.flags & vfio_user::spec::flag::no_reply, 0u);
      if (reply->is_error()) {
        EXPECT_EQ(reply->header.msg_size, 16u);
        EXPECT_NE(reply->header.error, 0u);
      }
    }
    return reply;
  }
  std::optional<Message> exchange(Peer& peer, Command command, Bytes payload = {}) {
    return exchange(peer, static_cast<std::uint16_t>(command), payload, Shape{});
  }
  std::optional<Message> exchange(Peer& peer, Command command, Bytes payload, const Shape& shape) {
    return exchange(peer, static_cast<std::uint16_t>(command), payload, shape);
  }

  /// The error a command is answered with: 0 for success, -1 for no reply at all.
  int error_of(Peer& peer, std::uint16_t command, Bytes payload = {}, const Shape& shape = {}) {
    const auto reply = exchange(peer, command, payload, shape);
    return reply ? reply->error() : -1;
  }
  int error_of(Peer& peer, Command command, Bytes payload = {}, const Shape& shape = {}) {
    return error_of(peer, static_cast<std::uint16_t>(command), payload, shape);
  }

  /// The connection works: the function's vendor and device read as they should.
  bool alive(Peer& peer) {
    const auto reply =
        exchange(peer, Command::region_read,
                 joined(vfio_user::spec::RegionAccess{.offset = 0, .region = pci::region::config, .count = 4}));
    return reply && reply->error() == 0 && reply->at<std::uint32_t>(16) == 0x0B0D1234;
  }

  /// Reads a register of BAR 0.
  std::uint32_t read_register(Peer& peer, std::uint64_t offset) {
    const auto reply = exchange(peer, Command::region_read,
                                joined(vfio_user::spec::RegionAccess{.offset = offset, .region = 0, .count = 4}));
    return reply ? reply->at<std::uint32_t>(16) : 0xdeadbeef;
  }
  void write_register(Peer& peer, std::uint64_t offset, std::uint32_t value) {
    const vfio_user::spec::RegionAccess access{.offset = offset, .region = 0, .count = 4};
    EXPECT_EQ(error_of(peer, Command::region_write, joined(access, value)), 0);
  }
  /// Memory decoding and bus mastering on, as a driver does.
  void enable(Peer& peer) {
    const vfio_user::spec::RegionAccess access{.offset = 4, .region = pci::region::config, .count = 2};
    EXPECT_EQ(error_of(peer, Command::region_write, joined(access, std::uint16_t{6})), 0);
  }

  /// The server has ended this connection and serves the next client.
  bool dropped_and_serving(Peer& peer) {
    pump();
    if (!peer.closed()) return false;
    Peer next = client();
    return alive(next);
  }

  TempDir dir_;
  ManualLoop loop_;
  vfio_user::Server::Options server_options_{.loop = nullptr, .log = {}};
  PlainFunction* function_ = nullptr;
  std::optional<vfio_user::Server> server_;
};

}  // namespace outboard::testing
