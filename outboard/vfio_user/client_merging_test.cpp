// Messages that a client saves: writes that wait together, and memory that goes all at once.

#include <gtest/gtest.h>

#include <tests/support/vfio_user_client_fixture.hpp>

namespace outboard::vfio_user {
namespace {

class ClientMerging : public testing::VfioUserClientTest {
 protected:
  static constexpr unsigned writes = 6000;  // more than a socket takes, and less than the client waits for

  void connect_to_server_with(bool write_multiple) {
    reply_version(write_multiple ? R"({"capabilities":{"max_msg_fds":16,"write_multiple":true}})"
                                 : R"({"capabilities":{"max_msg_fds":16}})");
    reply_info();
    reply_regions();
    reply_irqs();
    client_ = std::move(make().value());
    while (const auto request = server_.receive()) next_id_ = static_cast<std::uint16_t>(request->header.msg_id + 1);
  }
  void post(std::uint32_t value) { ASSERT_TRUE(client_->post_write(0, 8, as_bytes_of(value))); }
  void post_long(std::uint64_t value) {
    ASSERT_TRUE(client_->post_write(0, 16, testing::joined(value, std::uint64_t{0})));
  }

  void take(const Message& message) {
    ++messages_;
    EXPECT_EQ(message.header.flags, spec::flag::no_reply);
    if (static_cast<Command>(message.header.command) == Command::region_write) {
      const auto access = message.at<spec::RegionAccess>();
      return take(access.offset, access.region, access.count, message.at<std::uint32_t>(sizeof access));
    }
    ASSERT_EQ(static_cast<Command>(message.header.command), Command::region_write_multi);
    ++merged_messages_;
    const std::uint64_t count = message.at<spec::WriteMulti>().wr_cnt;
    ASSERT_EQ(message.payload.size(), sizeof(spec::WriteMulti) + count * sizeof(spec::WriteMultiEntry));
    EXPECT_LE(count, 200U);
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto entry =
          message.at<spec::WriteMultiEntry>(sizeof(spec::WriteMulti) + i * sizeof(spec::WriteMultiEntry));
      std::uint32_t value = 0;
      std::memcpy(&value, entry.data, sizeof value);
      take(entry.offset, entry.region, entry.count, value);
    }
  }
  void take(std::uint64_t offset, std::uint32_t region, std::uint32_t count, std::uint32_t value) {
    EXPECT_EQ(offset, count == 4 ? 8U : 16U);
    EXPECT_EQ(region, 0U);
    taken_.push_back(value);
  }
  /// Lets the server read until nothing is left to send.
  void drain() {
    for (bool more = true; more;) {
      more = false;
      while (const auto message = server_.receive()) {
        take(*message);
        more = true;
      }
      ASSERT_TRUE(client_->process());
    }
  }
  void expect_all_in_order() {
    ASSERT_EQ(taken_.size(), writes);
    for (std::uint32_t i = 0; i < writes; ++i) ASSERT_EQ(taken_[i], i);
  }

  std::vector<std::uint32_t> taken_;
  unsigned messages_ = 0, merged_messages_ = 0;
};

TEST_F(ClientMerging, WritesThatWaitForTheSocketGoTogether) {
  connect_to_server_with(true);
  for (std::uint32_t i = 0; i < writes; ++i) post(i);
  drain();
  expect_all_in_order();
  EXPECT_NE(merged_messages_, 0U);
  EXPECT_LT(messages_, writes / 2);
}

TEST_F(ClientMerging, WhatComesAfterMergedWritesIsSentAfterThem) {
  connect_to_server_with(true);
  for (std::uint32_t i = 0; i < writes; ++i) i % 1000 == 999 ? post_long(i) : post(i);
  drain();
  expect_all_in_order();
  EXPECT_NE(merged_messages_, 0U);
}

TEST_F(ClientMerging, ARequestIsSentAfterTheWritesBeforeIt) {
  options_.timeout = std::chrono::milliseconds(20);  // nobody answers
  connect_to_server_with(true);
  for (std::uint32_t i = 0; i < writes; ++i) post(i);
  std::uint32_t value = 0;
  EXPECT_EQ(error_of(client_->read_region(0, 8, as_writable_bytes_of(value))), ETIMEDOUT);
  bool asked = false;
  for (bool more = true; more;) {
    more = false;
    while (const auto message = server_.receive()) {
      more = true;
      asked |= static_cast<Command>(message->header.command) == Command::region_read;
      if (!asked) take(*message);
    }
    ASSERT_TRUE(client_->process());
  }
  EXPECT_TRUE(asked);
  expect_all_in_order();
}

TEST_F(ClientMerging, AServerThatDoesNotTakeSeveralWritesGetsThemOneByOne) {
  connect_to_server_with(false);
  for (std::uint32_t i = 0; i < writes; ++i) post(i);
  drain();
  expect_all_in_order();
  EXPECT_EQ(merged_messages_, 0U);
}

class ClientEnds : public testing::VfioUserClientTest {
 protected:
  static constexpr unsigned arenas = 3;

  /// Memory that the client's pool keeps to the end.
  void fill_pool() {
    connect();
    std::vector<memory::DmaBuffer> buffers;
    for (unsigned i = 0; i < arenas; ++i) {
      reply(Command::dma_map, next_id_++, {});
      for (unsigned half = 0; half < 2; ++half) buffers.push_back(client_->dma().allocate(UINT64_C(1) << 20).value());
      windows_.push_back(server_.receive().value().at<spec::DmaMap>());
    }
  }
  std::vector<spec::DmaUnmap> unmaps() {
    std::vector<spec::DmaUnmap> all;
    while (const auto message = server_.receive()) {
      EXPECT_EQ(static_cast<Command>(message->header.command), Command::dma_unmap);
      all.push_back(message->at<spec::DmaUnmap>());
    }
    return all;
  }

  std::vector<spec::DmaMap> windows_;
};

TEST_F(ClientEnds, AllMemoryGoesWithOneMessage) {
  fill_pool();
  reply(Command::dma_unmap, next_id_, std::vector<std::byte>(sizeof(spec::DmaUnmap)));
  client_.reset();
  const auto sent = unmaps();
  ASSERT_EQ(sent.size(), 1U);
  EXPECT_EQ(sent[0].argsz, sizeof(spec::DmaUnmap));
  EXPECT_EQ(sent[0].flags, vfio_abi::dma_unmap_flag::all);
  EXPECT_EQ(sent[0].address, 0U);
  EXPECT_EQ(sent[0].size, 0U);
}

TEST_F(ClientEnds, MemoryGoesWindowByWindowWhereTheServerKnowsNoOtherWay) {
  fill_pool();
  reply_error(Command::dma_unmap, next_id_++, EINVAL);
  for (unsigned i = 0; i < arenas; ++i)
    reply(Command::dma_unmap, next_id_++, std::vector<std::byte>(sizeof(spec::DmaUnmap)));
  client_.reset();
  const auto sent = unmaps();
  ASSERT_EQ(sent.size(), 1 + arenas);
  for (const auto& window : windows_)
    EXPECT_EQ(std::ranges::count(sent, window.address, &spec::DmaUnmap::address), window.address == 0 ? 2 : 1);
}

}  // namespace
}  // namespace outboard::vfio_user
