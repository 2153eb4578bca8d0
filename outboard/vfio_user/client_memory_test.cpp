#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include <outboard/testing/manual_loop.hpp>
#include <tests/support/own_mappings.hpp>
#include <tests/support/vfio_user_client_fixture.hpp>

// Memory that the server reaches by messages.

namespace outboard::vfio_user {
namespace {

using testing::joined;
using testing::open_fds;
using ClientRows = testing::VfioUserClientTest;

class ClientMemory : public ClientRows {
 protected:
  static constexpr std::size_t size = 8192;

  void SetUp() override {
    client_socket_ = socket_.get();
    pages_ = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    connect();
    reply(Command::dma_map, next_id_++, {});
    auto buffer = client_->dma().map(memory(), nullptr, 0);
    ASSERT_TRUE(buffer) << buffer.error().message();
    buffer_ = std::move(*buffer);
    server_.receive();  // the DMA_MAP
  }
  void TearDown() override {
    unmap();
    client_.reset();
    ::munmap(pages_, size);
  }
  void unmap() {
    if (!buffer_) return;
    reply(Command::dma_unmap, next_id_++, std::vector<std::byte>(24));
    buffer_.reset();
    server_.receive();
  }
  MutableBytes memory() const { return {static_cast<std::byte*>(pages_), size}; }
  std::uint64_t address() const { return raw(buffer_.iova()); }

  std::optional<Message> serve(Command command, Bytes payload, const testing::VfioUserPeer::Shape& shape = {}) {
    server_.send(command, payload, shape);
    EXPECT_TRUE(client_->process());
    return server_.receive();
  }
  int read_error(std::uint64_t at, std::uint64_t count) {
    const auto reply = serve(Command::dma_read, joined(spec::DmaAccess{at, count}));
    return reply ? reply->error() : -1;
  }
  int write_error(std::uint64_t at, std::uint64_t count, std::size_t length) {
    auto payload = joined(spec::DmaAccess{at, count});
    const auto data = testing::pattern(length);
    payload.insert(payload.end(), data.begin(), data.end());
    const auto reply = serve(Command::dma_write, payload);
    return reply ? reply->error() : -1;
  }

  int client_socket_ = -1;
  void* pages_ = nullptr;
  memory::DmaBuffer buffer_;
};

TEST_F(ClientMemory, IsReadAndWritten) {
  memory()[100] = std::byte{42};
  const auto read = serve(Command::dma_read, joined(spec::DmaAccess{address() + 100, 4}));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->payload.size(), 20u);
  EXPECT_EQ(read->at<spec::DmaAccess>().address, address() + 100);
  EXPECT_EQ(read->at<spec::DmaAccess>().count, 4u);
  EXPECT_EQ(read->payload[16], std::byte{42});
  const auto write = serve(Command::dma_write, joined(spec::DmaAccess{address() + 200, 4}, std::uint32_t{0x01020304}));
  ASSERT_TRUE(write);
  EXPECT_EQ(write->payload, joined(spec::DmaAccess{address() + 200, 4}));
  EXPECT_EQ(memory()[200], std::byte{4});
}

TEST_F(ClientMemory, APostedWriteIsNotAnswered) {
  EXPECT_FALSE(serve(Command::dma_write, joined(spec::DmaAccess{address(), 4}, std::uint32_t{0x01020304}),
                     {.flags = spec::flag::no_reply}));
  EXPECT_EQ(memory()[0], std::byte{4});
}

TEST_F(ClientMemory, VU80_WhatIsNotMappedOrPartlyMappedIsRefusedWithoutEffect) {
  memory()[size - 1] = std::byte{7};
  EXPECT_EQ(read_error(address() - 1, 1), EFAULT);
  EXPECT_EQ(read_error(address() + size, 1), EFAULT);
  EXPECT_EQ(read_error(address() + size - 4, 5), EFAULT);
  EXPECT_EQ(read_error(0, 64), EFAULT);
  EXPECT_EQ(write_error(address() - 2, 4, 4), EFAULT);
  EXPECT_EQ(write_error(address() + size - 1, 2, 2), EFAULT);
  EXPECT_EQ(memory()[size - 1], std::byte{7});
}

TEST_F(ClientMemory, VU81_CountsBeyondTheLimitOrThePayloadOrTheLastAddress) {
  EXPECT_EQ(read_error(address(), (1u << 20) + 1), E2BIG);
  EXPECT_EQ(read_error(address(), UINT64_MAX), E2BIG);
  EXPECT_EQ(write_error(address(), UINT64_MAX, 4), E2BIG);
  EXPECT_EQ(write_error(address(), 5, 4), EINVAL);
  EXPECT_EQ(write_error(address(), 3, 4), EINVAL);
  EXPECT_EQ(read_error(UINT64_MAX, 2), EFAULT);
  EXPECT_EQ(read_error(UINT64_MAX - 3, 4), EFAULT);
  EXPECT_EQ(serve(Command::dma_read, testing::pattern(15))->error(), EINVAL);
}

TEST_F(ClientMemory, VU81_ACountOfZeroSucceeds) {
  EXPECT_EQ(read_error(address(), 0), 0);
  EXPECT_EQ(read_error(0, 0), 0);
  EXPECT_EQ(write_error(0, 0, 0), 0);
}

TEST_F(ClientMemory, VU82_ACommandThatComesWhileACallWaitsIsServed) {
  memory()[0] = std::byte{9};
  server_.send(Command::dma_read, joined(spec::DmaAccess{address(), 1}));
  reply(Command::region_read, next_id_++, read_reply(5));
  EXPECT_EQ(read().value(), 5u);
  server_.receive();  // the REGION_READ
  const auto answer = server_.receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->payload.back(), std::byte{9});
}

TEST_F(ClientMemory, VU82_ACommandThatComesRightBehindAReplyIsServedToo) {
  // All in one piece. The first two make the client look for more at once: when the reply has been taken, nothing makes the
  // descriptor readable for the last one, which came with it.
  memory()[0] = std::byte{9};
  const auto command = server_.message(11, joined(spec::DmaAccess{address(), 1}), {});
  const auto answer = server_.message(9, read_reply(5), {.flags = spec::flag::reply, .id = next_id_++});
  std::vector<std::byte> bytes;
  for (const auto& each : {command, command, answer, command}) bytes.insert(bytes.end(), each.begin(), each.end());
  server_.send_bytes(bytes);
  EXPECT_EQ(read().value(), 5u);
  server_.receive();  // the REGION_READ
  for (int i = 0; i < 3; ++i) {
    const auto served = server_.receive();
    ASSERT_TRUE(served) << i;
    EXPECT_EQ(served->payload.back(), std::byte{9});
  }
}

TEST_F(ClientMemory, VU82_ACommandLeftBehindAReplyKeepsTheDescriptorReadable) {
  const auto command = server_.message(11, joined(spec::DmaAccess{address(), 1}), {});
  auto bytes = server_.message(9, read_reply(5), {.flags = spec::flag::reply, .id = next_id_++});
  bytes.insert(bytes.end(), command.begin(), command.end());
  server_.send_bytes(bytes);
  EXPECT_EQ(read().value(), 5u);
  server_.receive();  // the REGION_READ
  if (!server_.receive()) {
    pollfd state{.fd = client_->fd(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&state, 1, 0), 1);
    ASSERT_TRUE(client_->process());
    EXPECT_TRUE(server_.receive());
  }
}

TEST_F(ClientMemory, VU85_WhatACallCouldNotSendGoesWhenTheServerReads) {
  const int small = 4096;
  ::setsockopt(client_socket_, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  pollfd state{.fd = client_->fd(), .events = POLLIN, .revents = 0};
  const auto command = joined(spec::DmaAccess{address(), size});
  for (int i = 0; i < 4; ++i) server_.send(Command::dma_read, command);
  reply(Command::region_read, next_id_++, read_reply(5));
  EXPECT_EQ(read().value(), 5u);

  server_.receive();  // the REGION_READ
  for (int i = 0; i < 4; ++i) {
    auto answer = server_.receive();
    while (!answer) {
      ASSERT_EQ(::poll(&state, 1, 0), 1);
      ASSERT_TRUE(client_->process());
      answer = server_.receive();
    }
    EXPECT_EQ(answer->payload.size(), 16 + size);
  }
  EXPECT_EQ(::poll(&state, 1, 0), 0);
}

TEST_F(ClientMemory, VU82_AFloodOfCommandsIsServedAPieceAtATime) {
  std::vector<std::byte> bytes;
  const auto posted = server_.message(11, joined(spec::DmaAccess{address(), size}), {.flags = spec::flag::no_reply});
  for (int i = 0; i < 2000; ++i) bytes.insert(bytes.end(), posted.begin(), posted.end());
  const auto last = server_.message(11, joined(spec::DmaAccess{address(), 1}), {});
  bytes.insert(bytes.end(), last.begin(), last.end());
  ASSERT_TRUE(server_.send_bytes(bytes));
  pollfd state{.fd = client_->fd(), .events = POLLIN, .revents = 0};

  ASSERT_TRUE(client_->process());

  EXPECT_FALSE(server_.receive());
  while (::poll(&state, 1, 0) == 1) ASSERT_TRUE(client_->process());
  EXPECT_TRUE(server_.receive());
}

TEST_F(ClientMemory, VU83_DescriptorsAndUnknownCommandsAreRefused) {
  const int fd = ::eventfd(0, EFD_CLOEXEC);
  const std::size_t before = open_fds();
  EXPECT_EQ(serve(Command::dma_read, joined(spec::DmaAccess{address(), 1}), {.fds = {fd}})->error(), EINVAL);
  EXPECT_EQ(serve(Command::region_read, testing::pattern(16))->error(), ENOSYS);
  EXPECT_EQ(serve(static_cast<Command>(0), {})->error(), ENOSYS);
  EXPECT_EQ(serve(static_cast<Command>(99), testing::pattern(16), {.fds = {fd}})->error(), ENOSYS);
  EXPECT_EQ(open_fds(), before);
  EXPECT_TRUE(alive());
  ::close(fd);
}

TEST_F(ClientMemory, VU84_AfterItWasTakenBackItIsNotThere) {
  const std::uint64_t at = address();
  unmap();
  EXPECT_EQ(read_error(at, 1), EFAULT);
}

TEST_F(ClientRows, ADmaMapThatIsRefusedLeavesNoWindow) {
  connect();
  reply_error(Command::dma_map, next_id_++, ENOSPC);
  EXPECT_EQ(error_of(client_->dma().allocate(4096)), ENOSPC);
  const auto map = server_.receive();
  ASSERT_TRUE(map);
  const auto asked = map->at<spec::DmaMap>();
  EXPECT_EQ(asked.argsz, 32u);
  EXPECT_EQ(asked.flags, 3u);
  EXPECT_EQ(map->fds.size(), 1u);
  server_.send(Command::dma_read, joined(spec::DmaAccess{asked.address, 1}));
  ASSERT_TRUE(client_->process());
  EXPECT_EQ(server_.receive()->error(), EFAULT);
}

using ClientOfALostServer = ClientRows;

TEST_F(ClientOfALostServer, KeepsNoMemoryMapped) {
  const auto mapped = [] {
    return std::ranges::count_if(testing::own_mappings(), [](const testing::OwnMapping& one) {
      return one.file.find("outboard-dma") != std::string::npos;
    });
  };
  connect();
  reply(Command::dma_map, next_id_++, {});
  auto buffer = client_->dma().allocate(64);
  ASSERT_TRUE(buffer) << buffer.error().message();
  EXPECT_EQ(mapped(), 1);
  server_.close();
  buffer->reset();
  client_.reset();
  EXPECT_EQ(mapped(), 0);
}

}  // namespace
}  // namespace outboard::vfio_user
