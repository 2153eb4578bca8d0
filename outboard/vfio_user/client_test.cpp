#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <tuple>

#include <tests/support/temp_dir.hpp>
#include <tests/support/vfio_user_client_fixture.hpp>

// Messages: rows of docs/spec-map.md (VU) that a client has to keep.

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
using testing::joined;
using testing::open_fds;
using ClientRows = testing::VfioUserClientTest;

TEST_F(ClientRows, SaysWhatItWantsInOneVersionMessageAndAsksEverythingAtOnce) {
  reply_version();
  reply_info();
  reply_regions();
  reply_irqs();
  ASSERT_TRUE(make());
  const auto version = server_.receive();
  ASSERT_TRUE(version);
  EXPECT_EQ(version->header.command, 1);
  EXPECT_EQ(version->header.msg_id, version_id);
  EXPECT_EQ(version->header.flags, 0u);
  EXPECT_EQ(version->at<spec::Version>().major, 0);
  EXPECT_EQ(version->payload.back(), std::byte{0});
  EXPECT_EQ(server_.receive()->header.command, 4);
  for (std::uint32_t index = 0; index < 9; ++index) {
    const auto question = server_.receive();
    ASSERT_TRUE(question);
    EXPECT_EQ(question->header.command, 5);
    EXPECT_EQ(question->at<abi::RegionInfo>().index, index);
    EXPECT_GE(question->at<abi::RegionInfo>().argsz, 32u);
  }
}

TEST_F(ClientRows, ABoundIsCheckedBeforeAnythingIsSent) {
  connect();
  std::byte byte{};
  EXPECT_EQ(error_of(client_->read_region(0, bar_size, MutableBytes(&byte, 1))), EINVAL);
  EXPECT_EQ(error_of(client_->write_region(0, UINT64_MAX, Bytes(&byte, 1))), EINVAL);
  EXPECT_EQ(error_of(client_->post_write(1, 0, Bytes(&byte, 1))), EINVAL);
  EXPECT_EQ(error_of(client_->read_region(9, 0, MutableBytes(&byte, 1))), EINVAL);
  EXPECT_FALSE(server_.receive());
}

TEST_F(ClientRows, VU1_EofBetweenMessagesIsToldOnceAndForAll) {
  connect();
  server_.close();
  int gone = 0;
  client_->on_event([&gone](pci::Event event) { gone += event == pci::Event::gone ? 1 : 0; });
  ASSERT_TRUE(client_->process());
  ASSERT_TRUE(client_->process());
  EXPECT_EQ(gone, 1);
  expect_dead(ECONNRESET);
}

TEST_F(ClientRows, VU4_AMessageThatStallsEndsTheConnection) {
  options_.timeout = std::chrono::milliseconds(20);
  connect();
  const auto bytes = server_.message(9, read_reply(77), {.flags = 1, .id = next_id_});
  server_.send_bytes(Bytes(bytes).first(20));
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
  EXPECT_FALSE(client_->gone());  // it may be late
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
  EXPECT_TRUE(client_->gone());
}

TEST_F(ClientRows, VU4_ALateMessageMayEndAfterADeadline) {
  options_.timeout = std::chrono::milliseconds(20);
  connect();
  const auto bytes = server_.message(9, read_reply(77), {.flags = 1, .id = next_id_++});
  server_.send_bytes(Bytes(bytes).first(20));
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
  server_.send_bytes(Bytes(bytes).subspan(20));
  EXPECT_TRUE(alive());
}

TEST_F(ClientRows, VU5And6And7_AHeaderThatIsNoneIsFatal) {
  const testing::VfioUserPeer::Shape shapes[] = {{.flags = 1, .size = 15},
                                                 {.flags = 1, .size = 0},
                                                 {.flags = 1, .size = UINT32_MAX},
                                                 {.flags = 1, .size = (1u << 20) + 33},
                                                 {.flags = 2},
                                                 {.flags = 15}};
  for (const auto& shape : shapes) {
    std::tie(server_, socket_) = testing::VfioUserPeer::pair();
    connect();
    auto with_id = shape;
    with_id.id = next_id_;
    server_.send(Command::region_read, read_reply(1), with_id);
    EXPECT_EQ(error_of(read()), EPROTO);
    expect_dead(EPROTO);
  }
}

TEST_F(ClientRows, VU3_AReplyInPiecesIsPutTogether) {
  connect();
  const auto bytes = server_.message(9, read_reply(77), {.flags = 1, .id = next_id_++});
  for (std::size_t i = 0; i < bytes.size(); ++i) server_.send_bytes(Bytes(bytes).subspan(i, 1));
  EXPECT_EQ(read().value(), 77u);
}

TEST_F(ClientRows, VU10_DescriptorsWithABodyAreFatal) {
  connect();
  const int fd = ::eventfd(0, EFD_CLOEXEC);
  const auto bytes = server_.message(9, read_reply(77), {.flags = 1, .id = next_id_});
  server_.send_bytes(Bytes(bytes).first(20));
  ASSERT_TRUE(client_->process());
  const std::size_t before = open_fds();
  server_.send_bytes(Bytes(bytes).subspan(20), {fd});
  EXPECT_EQ(error_of(read()), EPROTO);
  EXPECT_EQ(open_fds(), before);
  ::close(fd);
}

TEST_F(ClientRows, VU11_DescriptorsWithAReplyThatHasNoneFailThatRequest) {
  connect();
  const int fd = ::eventfd(0, EFD_CLOEXEC);
  const std::size_t before = open_fds();
  reply(Command::region_read, next_id_++, read_reply(77), {fd});
  EXPECT_EQ(error_of(read()), EPROTO);
  EXPECT_EQ(open_fds(), before);
  EXPECT_TRUE(alive());
  ::close(fd);
}

TEST_F(ClientRows, VU69_AReplyThatAnswersNothingIsFatal) {
  connect();
  reply(Command::region_read, static_cast<std::uint16_t>(next_id_ + 5), read_reply(1));
  EXPECT_EQ(error_of(read()), EPROTO);
  expect_dead(EPROTO);
}

TEST_F(ClientRows, VU70_AReplyForAnotherCommandIsFatal) {
  connect();
  reply(Command::region_write, next_id_, read_reply(1));
  EXPECT_EQ(error_of(read()), EPROTO);
  expect_dead(EPROTO);
}

TEST_F(ClientRows, VU71_AReplyLongerThanAskedForIsFatal) {
  connect();
  auto payload = read_reply(1);
  payload.push_back(std::byte{0});
  EXPECT_EQ(error_of(read_answered(payload)), EPROTO);
  expect_dead(EPROTO);
}

TEST_F(ClientRows, VU71_AReplyShorterThanItsFixedPartFailsThatRequest) {
  connect();
  for (const std::size_t size : {0u, 1u, 15u}) {
    EXPECT_EQ(error_of(read_answered(Bytes(read_reply(1)).first(size))), EPROTO);
  }
  EXPECT_TRUE(alive());
}

TEST_F(ClientRows, VU72_AReadReplyWithAnotherCountFailsAndCopiesNothing) {
  connect();
  for (const std::uint32_t count : {0u, 3u, 5u, UINT32_MAX}) {
    const spec::RegionAccess echo{.offset = 8, .region = 0, .count = count};
    EXPECT_EQ(error_of(read_answered(joined(echo, std::uint32_t{0x12345678}))), EPROTO);
    EXPECT_EQ(last_value_, 0xccccccccu);
  }
  EXPECT_EQ(error_of(read_answered(Bytes(read_reply(1)).first(18))), EPROTO);
  EXPECT_EQ(last_value_, 0xccccccccu);
  EXPECT_TRUE(alive());
}

TEST_F(ClientRows, VU72_AWriteReplyWithAnotherCountFails) {
  connect();
  const std::uint32_t value = 1;
  reply(Command::region_write, next_id_++, joined(spec::RegionAccess{.offset = 8, .region = 0, .count = 3}));
  EXPECT_EQ(error_of(client_->write_region(0, 8, as_bytes_of(value))), EPROTO);
  EXPECT_TRUE(alive());
}

TEST_F(ClientRows, VU73_AnErrorReplyIsNeverSuccessAndItsPayloadIsDrained) {
  connect();
  for (const auto& [sent, expected] :
       {std::pair<std::uint32_t, int>{0, EIO}, {EACCES, EACCES}, {4096, EIO}, {UINT32_MAX, EIO}}) {
    reply_error(Command::region_read, next_id_++, sent, testing::pattern(100));
    EXPECT_EQ(error_of(read()), expected);
  }
  EXPECT_TRUE(alive());
}

TEST_F(ClientRows, VU74_NoReplyInTimeIsTimedOutAndTheLateOneDropped) {
  options_.timeout = std::chrono::milliseconds(30);
  connect();
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
  reply(Command::region_read, next_id_++, read_reply(0xdead));
  EXPECT_TRUE(alive());
  EXPECT_FALSE(client_->gone());
}

TEST_F(ClientRows, VU74_ALateReplyForAnotherCommandIsFatal) {
  options_.timeout = std::chrono::milliseconds(30);
  connect();
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
  reply(Command::region_write, next_id_++, read_reply(0xdead));
  EXPECT_EQ(error_of(read()), EPROTO);
}

TEST_F(ClientRows, VU75_APeerThatClosesInTheMiddleOfAReplyWakesWhoWaits) {
  connect();
  const auto bytes = server_.message(9, read_reply(77), {.flags = 1, .id = next_id_});
  server_.send_bytes(Bytes(bytes).first(30));
  server_.close();
  EXPECT_EQ(error_of(read()), ECONNRESET);
  expect_dead(ECONNRESET);
}

TEST_F(ClientRows, VU75_RequestsThatAreOnTheirWayTogetherAllFail) {
  connect();
  server_.close();
  EXPECT_EQ(error_of(client_->enable_interrupts(pci::InterruptKind::msix, 4)), ECONNRESET);
  EXPECT_EQ(error_of(client_->reset()), ECONNRESET);
  EXPECT_EQ(error_of(client_->dma().allocate(4096)), ECONNRESET);
}

TEST_F(ClientRows, VU76_AVersionThatCannotBeLivedWithIsRefused) {
  const auto refused = [this](const std::string& json, std::uint16_t major = 0, std::uint16_t minor = 0) {
    std::tie(server_, socket_) = testing::VfioUserPeer::pair();
    reply_version(json, major, minor);
    const auto client = make();
    return !client && client.error().code() == EPROTO && server_.closed();
  };
  EXPECT_TRUE(refused("{}", 1));
  EXPECT_TRUE(refused("{}", 0, 1));
  EXPECT_TRUE(refused("{"));
  EXPECT_TRUE(refused("[]"));
  EXPECT_TRUE(refused("{} x"));
  EXPECT_TRUE(refused(R"({"capabilities":{"max_data_xfer_size":0}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"max_data_xfer_size":67108865}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"max_data_xfer_size":-1}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"max_msg_fds":100000}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"max_msg_fds":"8"}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"max_dma_maps":65536}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"pgsizes":0}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"pgsizes":2048}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"twin_socket":{"supported":true}}})"));
  EXPECT_TRUE(refused(R"({"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}})"));
}

TEST_F(ClientRows, VU76_AVersionReplyWithoutCapabilitiesMeansTheDefaults) {
  reply(Command::version, version_id, joined(spec::Version{}));
  reply_info();
  reply_regions();
  reply_irqs();
  EXPECT_TRUE(make());
}

TEST_F(ClientRows, VU77_CountsThatCannotBeMeantAreRefused) {
  const std::array<std::uint32_t, 3> infos[] = {{3, 7, 5},  {3, 101, 5},        {3, UINT32_MAX, 5}, {3, 9, 2},
                                                {3, 9, 51}, {3, 9, UINT32_MAX}, {1, 9, 5} /* no PCI */};
  for (const auto& [flags, regions, irqs] : infos) {
    std::tie(server_, socket_) = testing::VfioUserPeer::pair();
    reply_version();
    reply_info(flags, regions, irqs);
    EXPECT_EQ(error_of(make()), EPROTO) << flags << " " << regions << " " << irqs;
  }
}

TEST_F(ClientRows, WhatSpeaksAnotherProtocolIsToldApart) {
  const std::string greeting = "220 mail.example.org ESMTP ready\r\n";
  server_.send_bytes(std::as_bytes(std::span(greeting)));
  EXPECT_EQ(error_of(make()), EPROTO);
}

TEST_F(ClientRows, WhatClosesAtOnceIsToldApart) {
  server_.close();
  EXPECT_EQ(error_of(make()), ECONNRESET);
}

TEST_F(ClientRows, WhatNeverAnswersIsToldApart) {
  options_.timeout = std::chrono::milliseconds(20);
  EXPECT_EQ(error_of(make()), ETIMEDOUT);
}

TEST_F(ClientRows, AServerThatIsBusySaysSo) {
  reply_error(Command::version, version_id, EBUSY);
  EXPECT_EQ(error_of(make()), EBUSY);
}

TEST_F(ClientRows, AServerThatCannotResetIsNotAsked) {
  reply_version();
  reply_info(2);
  reply_regions();
  reply_irqs();
  client_ = std::move(make().value());
  while (server_.receive()) {
  }
  EXPECT_EQ(error_of(client_->reset()), ENOTSUP);
  EXPECT_FALSE(server_.receive());
}

TEST_F(ClientRows, APostedWriteAsksForNoReply) {
  connect();
  const std::uint32_t value = 0x01020304;
  ASSERT_TRUE(client_->post_write(0, 8, as_bytes_of(value)));
  const auto message = server_.receive();
  ASSERT_TRUE(message);
  EXPECT_EQ(message->header.command, 10);
  EXPECT_EQ(message->header.flags, spec::flag::no_reply);
  EXPECT_EQ(message->payload, joined(spec::RegionAccess{.offset = 8, .region = 0, .count = 4}, value));
}

TEST_F(ClientRows, VU85_PostedWritesThatNobodyReadsEndInAnErrorNotInAHang) {
  options_.timeout = std::chrono::milliseconds(30);
  connect();
  const std::vector<std::byte> data(4096);
  Status status;
  for (int i = 0; i < 10000 && status; ++i) status = client_->post_write(0, 0, data);
  EXPECT_EQ(error_of(status), ETIMEDOUT);
}

}  // namespace
}  // namespace outboard::vfio_user
