#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <thread>

#include <outboard/pci/registers.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/vfio_user/client.hpp>
#include <outboard/vfio_user/server.hpp>
#include <tests/support/plain_function.hpp>
#include <tests/support/temp_dir.hpp>
#include <tests/support/vfio_user_peer.hpp>

// Client and server, each on a thread of its own, over a real socket.

namespace outboard::vfio_user {
namespace {

using testing::PlainFunction;

class ClientAndServer : public ::testing::Test {
 protected:
  void serve(const PlainFunction::Options& options = {}) {
    auto server = Server::listen(path(), PlainFunction::factory(options, &function_));
    ASSERT_TRUE(server) << server.error().message();
    server_.emplace(std::move(*server));
    thread_ = std::thread([this] { status_ = server_->run(); });
  }
  void stop_server() {
    if (!thread_.joinable()) return;
    server_->stop();
    thread_.join();
    server_.reset();
  }
  ~ClientAndServer() override { stop_server(); }

  std::string path() const { return dir_.path("s"); }
  std::unique_ptr<Client> connect(const Client::Options& options = {}) {
    auto client = Client::connect(path(), options);
    EXPECT_TRUE(client) << client.error().message() << client.error().cure();
    if (!client) return nullptr;
    EXPECT_TRUE((*client)->enable_bus_master());
    return std::move(*client);
  }
  static std::uint32_t get(Client& client, std::uint64_t offset) {
    return client.bar(0).value().read<std::uint32_t>(offset).value();
  }
  static void put(Client& client, std::uint64_t offset, std::uint32_t value) {
    ASSERT_TRUE(client.bar(0).value().write<std::uint32_t>(offset, value));
  }
  /// Moves bytes between the function's buffer and memory; waits until it is done.
  static std::uint32_t dma(Client& client, memory::Iova address, std::uint32_t length, std::uint32_t command) {
    put(client, PlainFunction::dma_address_at, static_cast<std::uint32_t>(raw(address)));
    put(client, PlainFunction::dma_address_at + 4, static_cast<std::uint32_t>(raw(address) >> 32));
    put(client, PlainFunction::dma_length_at, length);
    put(client, PlainFunction::dma_command_at, command);
    std::uint32_t status = PlainFunction::dma_busy;
    while (status == PlainFunction::dma_busy) status = get(client, PlainFunction::dma_status_at);
    return status;
  }
  static bool readable(int fd) {
    pollfd state{.fd = fd, .events = POLLIN, .revents = 0};
    return ::poll(&state, 1, 30000) == 1;
  }

  testing::TempDir dir_;
  PlainFunction* function_ = nullptr;
  std::optional<Server> server_;
  std::thread thread_;
  int status_ = -1;
};

TEST_F(ClientAndServer, RegistersAreReadAndWritten) {
  serve();
  const auto client = connect();
  EXPECT_EQ(client->name(), "vfio-user:" + path());
  EXPECT_EQ(get(*client, PlainFunction::id_at), PlainFunction::id_value);
  put(*client, PlainFunction::scratch_at, 0x12345678);
  EXPECT_EQ(get(*client, PlainFunction::scratch_at), 0x12345678u);
  EXPECT_EQ(client->msix_vector_count().value(), 4u);
  EXPECT_EQ(client->region(0).value().size, PlainFunction::bar_size);
  EXPECT_EQ(client->region(1).value().size, 0u);
}

TEST_F(ClientAndServer, PostedWritesArriveInOrderBeforeWhatFollows) {
  serve({.area = false});
  const auto client = connect();
  for (std::uint32_t i = 1; i <= 5000; ++i) {
    const le32 value = i;
    ASSERT_TRUE(client->post_write(0, PlainFunction::doorbell_at, as_bytes_of(value)));
  }
  EXPECT_EQ(get(*client, PlainFunction::doorbell_count_at), 5000u);
  EXPECT_EQ(get(*client, PlainFunction::doorbell_at), 5000u);
}

TEST_F(ClientAndServer, PostedWritesBeyondWhatMayWaitAreSentWhenTheServerReads) {
  serve();
  const auto client = connect();
  const std::vector<std::byte> data(4096);
  for (int i = 0; i < 4000; ++i) ASSERT_TRUE(client->post_write(0, PlainFunction::buffer_at, data)) << i;
  EXPECT_EQ(get(*client, PlainFunction::id_at), PlainFunction::id_value);
}

TEST_F(ClientAndServer, LongAccessesAreSplit) {
  serve();
  const auto client = connect();
  std::vector<std::byte> all(PlainFunction::bar_size);
  ASSERT_TRUE(client->read_region(0, 0, all));
  EXPECT_FALSE(client->read_region(0, 4, all));
}

TEST_F(ClientAndServer, AWindowSeesWhatAccessesSee) {
  serve();
  const auto client = connect();
  auto window = client->bar(0).value().window(PlainFunction::area_at, 4096);
  ASSERT_TRUE(window) << window.error().message();
  window->write<std::uint32_t>(8, 77);
  EXPECT_EQ(get(*client, PlainFunction::area_at + 8), 77u);
  put(*client, PlainFunction::area_at + 12, 78);
  EXPECT_EQ(window->read<std::uint32_t>(12), 78u);
  EXPECT_EQ(client->bar(0).value().window(0, 4096).error().code(), ENOTSUP);
}

TEST_F(ClientAndServer, MappedMemoryIsReachedByTheFunction) {
  serve();
  const auto client = connect();
  auto buffer = client->dma().allocate(8192);
  ASSERT_TRUE(buffer) << buffer.error().message();
  for (std::size_t i = 0; i < 4096; ++i) buffer->bytes()[i] = static_cast<std::byte>(i * 7);
  EXPECT_EQ(dma(*client, buffer->iova(), 4096, PlainFunction::dma_from_memory), PlainFunction::dma_done);
  EXPECT_EQ(dma(*client, buffer->iova() + 4096, 4096, PlainFunction::dma_to_memory), PlainFunction::dma_done);
  EXPECT_TRUE(std::ranges::equal(buffer->bytes().first(4096), buffer->bytes().subspan(4096)));
}

TEST_F(ClientAndServer, VU82_MemoryWithoutAFileIsReachedByMessagesWhileACallWaits) {
  serve();
  const auto client = connect();
  void* const pages = ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  const MutableBytes memory(static_cast<std::byte*>(pages), 8192);
  for (std::size_t i = 0; i < 4096; ++i) memory[i] = static_cast<std::byte>(i * 5);
  {
    auto buffer = client->dma().map(memory, nullptr, 0);
    ASSERT_TRUE(buffer) << buffer.error().message();
    EXPECT_EQ(dma(*client, buffer->iova(), 4096, PlainFunction::dma_from_memory), PlainFunction::dma_done);
    EXPECT_EQ(dma(*client, buffer->iova() + 4096, 4096, PlainFunction::dma_to_memory), PlainFunction::dma_done);
    EXPECT_TRUE(std::ranges::equal(memory.first(4096), memory.subspan(4096)));
  }
  ::munmap(pages, 8192);
}

TEST_F(ClientAndServer, VU84_MemoryThatWasTakenBackIsReachedNoMore) {
  serve();
  const auto client = connect();
  auto buffer = client->dma().allocate(UINT64_C(4) << 20);  // an arena of its own
  ASSERT_TRUE(buffer);
  const auto address = buffer->iova();
  buffer->reset();
  EXPECT_EQ(dma(*client, address, 64, PlainFunction::dma_from_memory), PlainFunction::dma_failed + EFAULT);
}

TEST_F(ClientAndServer, InterruptsArriveAtTheirVectors) {
  serve();
  const auto client = connect();
  {
    auto vectors = client->enable_interrupts(pci::InterruptKind::msix, 4);
    ASSERT_TRUE(vectors) << vectors.error().message();
    put(*client, PlainFunction::signal_msix_at, 2);
    EXPECT_TRUE(readable(vectors->vector(2).get()));
    EXPECT_EQ(vectors->vector(2).drain(), 1u);
    EXPECT_EQ(vectors->vector(1).drain(), 0u);
  }
  auto line = client->enable_interrupts(pci::InterruptKind::intx, 1);
  ASSERT_TRUE(line) << line.error().message();
  put(*client, PlainFunction::intx_at, 1);
  EXPECT_TRUE(readable(line->vector(0).get()));
  EXPECT_EQ(line->vector(0).drain(), 1u);
  EXPECT_TRUE(line->unmask());  // the level is still up
  EXPECT_TRUE(readable(line->vector(0).get()));
}

TEST_F(ClientAndServer, MoreVectorsThanOneMessageTakesAreBoundInSeveral) {
  serve({.msix_vectors = 40});
  const auto client = connect();
  auto vectors = client->enable_interrupts(pci::InterruptKind::msix, 40);
  ASSERT_TRUE(vectors) << vectors.error().message();
  for (const std::uint32_t vector : {0u, 15u, 16u, 39u}) {
    put(*client, PlainFunction::signal_msix_at, vector);
    EXPECT_TRUE(readable(vectors->vector(vector).get())) << vector;
  }
}

TEST_F(ClientAndServer, DoorbellsAreRungByEventfd) {
  serve({.doorbell_fd = true});
  const auto client = connect();
  const auto bells = client->io_eventfds(0);
  ASSERT_TRUE(bells) << bells.error().message();
  ASSERT_EQ(bells->size(), 1u);
  EXPECT_EQ((*bells)[0].offset, PlainFunction::doorbell_at);
  (*bells)[0].fd->signal();
  while (get(*client, PlainFunction::doorbell_count_at) == 0) {
  }
  EXPECT_TRUE(client->io_eventfds(1).value().empty());
}

TEST_F(ClientAndServer, ResetReturnsToPowerOnAndRestoresWhatTheLibraryKeeps) {
  serve();
  const auto client = connect();
  ASSERT_TRUE(client->enable_bus_master());
  auto vectors = client->enable_interrupts(pci::InterruptKind::msix, 2);
  ASSERT_TRUE(vectors);
  put(*client, PlainFunction::scratch_at, 5);
  ASSERT_TRUE(client->reset());
  EXPECT_EQ(get(*client, PlainFunction::scratch_at), 0u);
  put(*client, PlainFunction::signal_msix_at, 1);
  EXPECT_TRUE(readable(vectors->vector(1).get()));
}

TEST_F(ClientAndServer, WhatIsRevokedReadsAsAllOnesAndSaysEnodev) {
  serve();
  const auto client = connect();
  const auto window = client->bar(0).value().window(PlainFunction::area_at, PlainFunction::area_size).value();
  int gone = 0;
  client->on_event([&](pci::Event event) { gone += event == pci::Event::gone ? 1 : 0; });
  client->revoke();
  client->revoke();
  EXPECT_EQ(gone, 1);
  EXPECT_TRUE(client->gone());
  EXPECT_EQ(window.read<std::uint32_t>(0), UINT32_MAX);
  EXPECT_EQ(client->reset().error().code(), ENODEV);
  EXPECT_EQ(client->config().read<pci::VendorId>().error().code(), ENODEV);
  EXPECT_TRUE(connect()) << "and the server has it back";
}

TEST_F(ClientAndServer, VU65_ASecondClientIsToldWhoHasTheFunction) {
  serve();
  const auto client = connect();
  const auto second = Client::connect(path());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), EBUSY);
  EXPECT_NE(second.error().what().find("process " + std::to_string(::getpid())), std::string::npos)
      << second.error().message();
  EXPECT_EQ(get(*client, PlainFunction::id_at), PlainFunction::id_value);
}

TEST_F(ClientAndServer, ClientsFollowEachOther) {
  serve();
  for (int i = 0; i < 50; ++i) {
    const auto client = connect();
    ASSERT_TRUE(client);
    put(*client, PlainFunction::scratch_at, static_cast<std::uint32_t>(i));
    EXPECT_EQ(get(*client, PlainFunction::scratch_at), static_cast<std::uint32_t>(i));
  }
}

TEST_F(ClientAndServer, VU75_WhenTheServerEndsEveryCallSaysSoAndWindowsReadAllOnes) {
  serve();
  testing::ManualLoop loop;
  const auto client = connect();
  const auto window = client->bar(0).value().window(PlainFunction::area_at, PlainFunction::area_size).value();
  auto buffer = client->dma().allocate(4096);
  auto vectors = client->enable_interrupts(pci::InterruptKind::msix, 1);
  ASSERT_TRUE(buffer && vectors);
  ASSERT_TRUE(client->attach(loop));
  int gone = 0;
  int deadlocks = 0;
  client->on_event([&](pci::Event event) {
    if (event == pci::Event::gone) ++gone;
    std::byte byte{};
    if (client->read_region(0, 0, MutableBytes(&byte, 1)).error().code() == EDEADLK) ++deadlocks;
  });

  stop_server();
  EXPECT_TRUE(loop.run_until([&] { return gone != 0; }));
  loop.run_until_idle();

  EXPECT_EQ(gone, 1);
  EXPECT_EQ(deadlocks, 1);
  EXPECT_TRUE(client->gone());
  EXPECT_EQ(client->config().read<pci::Command>().error().code(), ECONNRESET);
  EXPECT_EQ(client->reset().error().code(), ECONNRESET);
  EXPECT_EQ(window.read<std::uint32_t>(0), 0xffffffffu);
  EXPECT_EQ(window.read<std::uint32_t>(PlainFunction::area_size - 4), 0xffffffffu);
}

TEST(ClientOfAFloodingServer, VU74_ACallThatSpinsEndsInTimeWhateverElseComes) {
  auto [peer, socket] = testing::VfioUserPeer::pair();
  // Answers VERSION; to what follows, it only sends posted commands without end.
  std::thread server([&peer] {
    const auto version = peer.receive_within(30000);
    peer.reply(*version, testing::joined(spec::Version{0, 0}));
    const spec::Header header{.msg_id = 0, .command = 99, .msg_size = 16, .flags = spec::flag::no_reply, .error = 0};
    while (::send(peer.socket().get(), &header, sizeof header, MSG_NOSIGNAL) > 0) {
    }
  });
  const auto client = Client::over(std::move(socket), "the server",
                                   {.timeout = std::chrono::milliseconds(50), .spin = std::chrono::seconds(10)});
  server.join();
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code(), ETIMEDOUT);
}

TEST_F(ClientAndServer, StoppingTheServerRemovesItsSocketAndReturnsZero) {
  serve();
  const auto client = connect();
  server_->stop();
  thread_.join();
  EXPECT_EQ(status_, 0);
  server_.reset();
  EXPECT_EQ(Client::connect(path()).error().code(), ENOENT);
}

TEST_F(ClientAndServer, AClientWaitsForAServerThatIsStillStarting) {
  std::thread starter([this] { serve(); });
  const auto client = Client::connect(path(), {.wait = std::chrono::seconds(30)});
  starter.join();
  EXPECT_TRUE(client) << client.error().message();
}

/// Without the memory's file everything goes by messages, on one socket or on two.
TEST_F(ClientAndServer, MemoryWithoutAFileIsReachedByMessages) {
  serve();
  for (const bool twin : {false, true}) {
    const auto client = connect({.twin_socket = twin, .share_memory = false});
    auto buffer = client->dma().allocate(4096);
    ASSERT_TRUE(buffer);
    for (std::size_t i = 0; i < 4096; ++i) buffer->data()[i] = static_cast<std::byte>(i * 7);
    for (int turn = 0; turn < 50; ++turn) {
      ASSERT_EQ(dma(*client, buffer->iova(), 2048, PlainFunction::dma_from_memory), PlainFunction::dma_done);
      std::memset(buffer->data() + 2048, 0, 2048);
      ASSERT_EQ(dma(*client, buffer->iova() + 2048, 2048, PlainFunction::dma_to_memory), PlainFunction::dma_done);
      ASSERT_EQ(std::memcmp(buffer->data(), buffer->data() + 2048, 2048), 0) << turn << twin;
    }
  }
}

}  // namespace
}  // namespace outboard::vfio_user
