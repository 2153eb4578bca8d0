#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <tests/support/vfio_user_client_fixture.hpp>

// Rows that bind both sides (docs/spec-map.md, VU), shown on the client's.

namespace outboard::vfio_user {
namespace {

using testing::open_fds;

class ClientToo : public testing::VfioUserClientTest {
 protected:
  /// Descriptors to send; closed with the test.
  std::vector<int> eventfds(std::size_t count) {
    std::vector<int> numbers;
    for (std::size_t i = 0; i < count; ++i) numbers.push_back(owned_.emplace_back(::eventfd(0, EFD_CLOEXEC)).get());
    return numbers;
  }

 private:
  std::vector<UniqueFd> owned_;
};

/// No more descriptors can be opened while it lives.
class NoMoreDescriptors {
 public:
  NoMoreDescriptors() {
    ::getrlimit(RLIMIT_NOFILE, &saved_);
    const UniqueFd lowest_free(::fcntl(0, F_DUPFD_CLOEXEC, 0));
    rlimit tight = saved_;
    tight.rlim_cur = static_cast<rlim_t>(lowest_free.get());
    ::setrlimit(RLIMIT_NOFILE, &tight);
  }
  ~NoMoreDescriptors() { ::setrlimit(RLIMIT_NOFILE, &saved_); }
  NoMoreDescriptors(const NoMoreDescriptors&) = delete;
  NoMoreDescriptors& operator=(const NoMoreDescriptors&) = delete;

 private:
  rlimit saved_{};
};

TEST_F(ClientToo, VU8_UnknownFlagsOfAReplyAreIgnored) {
  connect();
  for (const std::uint32_t unknown : {0x40u, 0x80000000u, 0xffffffc0u}) {
    server_.send(Command::region_read, read_reply(7), {.flags = spec::flag::reply | unknown, .id = next_id_++});
    EXPECT_EQ(read().value_or(0), 7u) << unknown;
  }
  // An error number where the error flag is clear says nothing either.
  server_.send(Command::region_read, read_reply(8), {.flags = spec::flag::reply, .id = next_id_++, .error = EIO});
  EXPECT_EQ(read().value_or(0), 8u);
  EXPECT_TRUE(alive());
}

TEST_F(ClientToo, VU8_UnknownFlagsAndAnErrorInACommandAreIgnored) {
  connect();
  const spec::DmaAccess nowhere{0x1000, 4};
  server_.send(Command::dma_read, testing::joined(nowhere),
               {.flags = spec::flag::error | 0x80000000u, .id = 900, .error = EIO});
  ASSERT_TRUE(client_->process());
  const auto answer = server_.receive();
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->is_reply());
  EXPECT_EQ(answer->header.msg_id, 900);
  EXPECT_EQ(answer->error(), EFAULT);
}

TEST_F(ClientToo, VU9_TheMaximumOfDescriptorsIsClosedAndFailsTheRequest) {
  // A client takes what Linux lets through, so more than it takes can only be more than it has room for (VU-12).
  connect();
  const auto fds = eventfds(spec::kernel_max_fds);
  const std::size_t before = open_fds();
  reply(Command::region_read, next_id_++, read_reply(7), fds);
  EXPECT_EQ(error_of(read()), EPROTO);
  EXPECT_EQ(last_value_, 0xccccccccu);
  EXPECT_EQ(open_fds(), before);
  EXPECT_TRUE(alive());
}

TEST_F(ClientToo, VU12_WithoutFreeDescriptorsTheConnectionEnds) {
  connect();
  const auto fds = eventfds(2);
  const std::size_t before = open_fds();
  reply(Command::region_read, next_id_, read_reply(7), fds);
  {
    const NoMoreDescriptors tight;
    EXPECT_EQ(error_of(read()), EPROTO);
  }
  EXPECT_EQ(open_fds(), before);
  EXPECT_TRUE(client_->gone());
}

}  // namespace
}  // namespace outboard::vfio_user
