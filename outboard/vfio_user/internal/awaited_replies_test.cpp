#include <outboard/vfio_user/internal/awaited_replies.hpp>

#include <gtest/gtest.h>

namespace outboard::vfio_user {
namespace {

struct Sent {
  std::uint16_t id = 0;
  spec::Command command{};
};

spec::Header reply(std::uint16_t id, spec::Command command) {
  return reply_header(command_header(command, id, spec::flag::command, 0), 0);
}

class AwaitedRepliesTest : public ::testing::Test {
 protected:
  std::uint16_t send(spec::Command command) {
    const std::uint16_t id = replies_.new_id();
    replies_.add({.id = id, .command = command});
    return id;
  }
  int error_of(const spec::Header& reply) {
    const auto found = replies_.find(reply);
    return found ? 0 : found.error().code();
  }

  AwaitedReplies<Sent> replies_{"the peer"};
};

TEST_F(AwaitedRepliesTest, AReplyFindsItsRequestInAnyOrder) {
  const auto first = send(spec::Command::dma_read);
  const auto second = send(spec::Command::dma_write);
  for (const auto& [id, command] : {std::pair{second, spec::Command::dma_write}, {first, spec::Command::dma_read}}) {
    const auto found = replies_.find(reply(id, command));
    ASSERT_TRUE(found && *found != nullptr);
    EXPECT_EQ(replies_.take(*found).id, id);
  }
  EXPECT_TRUE(replies_.awaited().empty());
}

TEST_F(AwaitedRepliesTest, AReplyThatAnswersNothingOrAnotherCommandIsAnError) {
  const auto id = send(spec::Command::dma_read);
  EXPECT_EQ(error_of(reply(static_cast<std::uint16_t>(id + 1), spec::Command::dma_read)), EPROTO);
  EXPECT_EQ(error_of(reply(id, spec::Command::dma_write)), EPROTO);
  EXPECT_EQ(error_of(reply(id, spec::Command::dma_read)), 0) << "it is still awaited";
}

TEST_F(AwaitedRepliesTest, ALateReplyIsDroppedOnceAndMustMatchItsCommandToo) {
  const auto id = send(spec::Command::region_read);
  EXPECT_EQ(replies_.give_up([](const Sent&) { return true; }).size(), 1u);
  EXPECT_EQ(replies_.late(), 1u);
  EXPECT_EQ(error_of(reply(id, spec::Command::region_write)), EPROTO);
  const auto found = replies_.find(reply(id, spec::Command::region_read));
  ASSERT_TRUE(found);
  EXPECT_EQ(*found, nullptr);
  EXPECT_EQ(error_of(reply(id, spec::Command::region_read)), EPROTO) << "it has come already";
}

TEST_F(AwaitedRepliesTest, AnIdIsNotUsedAgainBeforeItsReplyHasCome) {
  const auto awaited = send(spec::Command::region_read);
  const auto late = send(spec::Command::region_write);
  replies_.give_up([late](const Sent& sent) { return sent.id == late; });
  for (unsigned i = 0; i < 0x10000; ++i) {
    const auto id = replies_.new_id();
    ASSERT_NE(id, awaited);
    ASSERT_NE(id, late);
  }
}

TEST_F(AwaitedRepliesTest, AnErrorReplyIsNeverASuccess) {
  spec::Header header = error_header(reply(1, spec::Command::dma_read), EPERM);
  EXPECT_EQ(error_code(header), EPERM);
  for (const std::uint32_t nonsense : {0u, 4096u, 0x80000000u, UINT32_MAX}) {
    header.error = nonsense;
    EXPECT_EQ(error_code(header), EIO) << nonsense;
  }
}

}  // namespace
}  // namespace outboard::vfio_user
