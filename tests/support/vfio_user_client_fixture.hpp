#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include <outboard/vfio_user/client.hpp>
#include <tests/support/vfio_user_peer.hpp>

namespace outboard::testing {

/// A client, and a server that is nothing but messages which the test has laid into the socket beforehand: one thread,
/// and no timing. The client numbers its requests from 1: VERSION, DEVICE_GET_INFO, 9 regions from 3, 5 interrupts from
/// 12.
class VfioUserClientTest : public ::testing::Test {
 protected:
  using Command = VfioUserPeer::Command;
  using Message = VfioUserPeer::Message;
  using Client = vfio_user::Client;

  static constexpr std::uint16_t version_id = 1, info_id = 2, first_region_id = 3, first_irq_id = 12;
  static constexpr std::uint64_t bar_size = 0x4000;

  VfioUserClientTest() {
    auto [peer, socket] = VfioUserPeer::pair();
    server_ = std::move(peer);
    socket_ = std::move(socket);
  }

  /// A reply, or an error where `error` is not 0.
  void reply(Command command, std::uint16_t id, Bytes payload, const std::vector<int>& fds = {}) {
    server_.send(command, payload, {.flags = vfio_user::spec::flag::reply, .id = id, .fds = fds});
  }
  void reply_error(Command command, std::uint16_t id, std::uint32_t error, Bytes payload = {}) {
    server_.send(command, payload,
                 {.flags = vfio_user::spec::flag::reply | vfio_user::spec::flag::error, .id = id, .error = error});
  }
  void reply_version(const std::string& json = R"({"capabilities":{"max_msg_fds":16}})", std::uint16_t major = 0,
                     std::uint16_t minor = 0) {
    auto payload = joined(vfio_user::spec::Version{.major = major, .minor = minor});
    const auto text = std::as_bytes(std::span(json.c_str(), json.size() + 1));
    payload.insert(payload.end(), text.begin(), text.end());
    reply(Command::version, version_id, payload);
  }
  void reply_info(std::uint32_t flags = 3, std::uint32_t regions = 9, std::uint32_t irqs = 5) {
    reply(Command::device_get_info, info_id,
          joined(vfio_abi::DeviceInfo{.argsz = 16, .flags = flags, .num_regions = regions, .num_irqs = irqs}));
  }
  static vfio_abi::RegionInfo plain_region(std::uint32_t index) {
    const std::uint64_t size = index == 0 ? bar_size : index == 7 ? 256 : 0;
    return {.argsz = 32, .flags = size == 0 ? 0u : 3u, .index = index, .cap_offset = 0, .size = size, .offset = 0};
  }
  void reply_region(const vfio_abi::RegionInfo& info) {
    reply(Command::device_get_region_info, static_cast<std::uint16_t>(first_region_id + info.index), joined(info));
  }
  void reply_irq(std::uint32_t index, std::uint32_t count, std::uint32_t flags = 1) {
    reply(Command::device_get_irq_info, static_cast<std::uint16_t>(irq_id_ + index),
          joined(vfio_abi::IrqInfo{.argsz = 16, .flags = flags, .index = index, .count = count}));
  }
  void reply_regions(std::uint32_t from = 0) {
    for (std::uint32_t index = from; index < 9; ++index) reply_region(plain_region(index));
  }
  void reply_irqs() {
    for (std::uint32_t index = 0; index < 5; ++index) reply_irq(index, index == 2 ? 4 : index < 2 ? 1 : 0);
  }

  /// Makes the client from what has been laid out.
  Result<std::unique_ptr<Client>> make() { return Client::over(std::move(socket_), "the server", options_); }

  /// A client over a server that has answered everything at the start. The next request's id is in next_id_.
  void connect() {
    reply_version();
    reply_info();
    reply_regions();
    reply_irqs();
    auto client = make();
    ASSERT_TRUE(client) << client.error().message();
    client_ = std::move(*client);
    while (const auto request = server_.receive()) next_id_ = static_cast<std::uint16_t>(request->header.msg_id + 1);
  }

  /// The error of an operation; 0 for success.
  template <typename Expected>
  static int error_of(const Expected& result) {
    return result ? 0 : result.error().code();
  }

  /// Lays out the answer to a read of 4 bytes, and reads.
  Result<std::uint32_t> read_answered(Bytes payload) {
    reply(Command::region_read, next_id_++, payload);
    return read();
  }
  Result<std::uint32_t> read() {
    std::uint32_t value = 0xcccccccc;
    last_value_ = value;
    auto done = client_->read_region(0, 8, as_writable_bytes_of(value));
    last_value_ = value;
    if (!done) return done.error();
    return value;
  }
  static std::vector<std::byte> read_reply(std::uint32_t value) {
    return joined(vfio_user::spec::RegionAccess{.offset = 8, .region = 0, .count = 4}, value);
  }
  /// The client is dead, and says so.
  void expect_dead(int code) {
    EXPECT_TRUE(client_->gone());
    EXPECT_EQ(error_of(read()), code);
  }
  /// The connection works.
  bool alive() {
    const auto value = read_answered(read_reply(0x600d));
    return value && *value == 0x600d;
  }

  VfioUserPeer server_;
  UniqueFd socket_;
  Client::Options options_;
  std::unique_ptr<Client> client_;
  std::uint16_t irq_id_ = first_irq_id;
  std::uint16_t next_id_ = 0;
  std::uint32_t last_value_ = 0;
};

}  // namespace outboard::testing
