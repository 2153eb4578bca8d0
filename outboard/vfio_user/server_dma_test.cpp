#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <charconv>
#include <fstream>
#include <thread>

#include <outboard/memory/fault_guard.hpp>
#include <tests/support/dead_port.hpp>
#include <tests/support/idle_function.hpp>
#include <tests/support/own_mappings.hpp>
#include <tests/support/vfio_user_server_fixture.hpp>

// Rows of docs/spec-map.md (VU) that concern memory.

namespace outboard::vfio_user {
namespace {

using testing::joined;
using testing::open_fds;
using testing::PlainFunction;

constexpr std::uint32_t read_write = 3;
constexpr std::uint64_t base = 0x100000;

spec::DmaMap map_request(std::uint64_t address, std::uint64_t size, std::uint64_t offset = 0,
                         std::uint32_t flags = read_write) {
  return {.argsz = 32, .flags = flags, .offset = offset, .address = address, .size = size};
}
spec::DmaUnmap unmap_request(std::uint64_t address, std::uint64_t size, std::uint32_t flags = 0) {
  return {.argsz = 24, .flags = flags, .address = address, .size = size};
}

/// Uses memory on a loop of its own choosing and lets go of it when the test says so.
class SlowUser final : public memory::MapUser {
 public:
  explicit SlowUser(Loop& loop) : loop_(loop) {}
  Loop& map_loop() override { return loop_; }
  void map_changed(memory::IovaRange removed, Loop::Task released) override {
    if (removed.size == 0) return released();
    waiting_.push_back(std::move(released));
  }
  void let_go() {
    for (auto& released : std::exchange(waiting_, {})) released();
  }

 private:
  Loop& loop_;
  std::vector<Loop::Task> waiting_;
};

class ServerDma : public testing::VfioUserServerTest {
 protected:
  int map(Peer& peer, const spec::DmaMap& request, const std::vector<int>& fds = {}) {
    return error_of(peer, Command::dma_map, joined(request), {.fds = fds});
  }
  int unmap(Peer& peer, std::uint64_t address, std::uint64_t size, std::uint32_t flags = 0) {
    return error_of(peer, Command::dma_unmap, joined(unmap_request(address, size, flags)));
  }
  std::size_t windows() { return function().memory().current()->mapping_count(); }

  /// Starts a transfer between the function's buffer and memory.
  void start_dma(Peer& peer, std::uint64_t address, std::uint32_t length, std::uint32_t command) {
    write_register(peer, PlainFunction::dma_address_at, static_cast<std::uint32_t>(address));
    write_register(peer, PlainFunction::dma_address_at + 4, static_cast<std::uint32_t>(address >> 32));
    write_register(peer, PlainFunction::dma_length_at, length);
    write_register(peer, PlainFunction::dma_command_at, command);
  }
  std::uint32_t dma_status(Peer& peer) { return read_register(peer, PlainFunction::dma_status_at); }
  static std::uint32_t failed(int error) { return PlainFunction::dma_failed + static_cast<std::uint32_t>(error); }
  std::vector<std::byte> buffer(Peer& peer, std::uint32_t length) {
    const auto reply =
        exchange(peer, Command::region_read,
                 joined(spec::RegionAccess{.offset = PlainFunction::buffer_at, .region = 0, .count = length}));
    return reply ? std::vector<std::byte>(reply->data(16).begin(), reply->data(16).end()) : std::vector<std::byte>{};
  }
  /// A negotiated client with one message-mode window at `base`, and a DMA_READ of 64 bytes that waits for its answer.
  std::pair<Peer, Message> client_with_pending_read() {
    Peer peer = client();
    enable(peer);
    EXPECT_EQ(map(peer, map_request(base, 0x10000)), 0);
    write_register(peer, PlainFunction::dma_address_at, base);
    write_register(peer, PlainFunction::dma_length_at, 64);
    const spec::RegionAccess start{.offset = PlainFunction::dma_command_at, .region = 0, .count = 4};
    peer.send(Command::region_write, joined(start, PlainFunction::dma_from_memory));
    pump();
    // One of the two is the reply to the write; neither waits for the other.
    auto first = peer.receive();
    auto second = peer.receive();
    EXPECT_TRUE(first && second);
    if (!first || !second) return {std::move(peer), Message{}};
    return {std::move(peer), std::move(first->is_reply() ? *second : *first)};
  }
  static std::vector<std::byte> read_answer(const Message& command, std::size_t size) {
    auto payload = joined(command.at<spec::DmaAccess>());
    const auto data = testing::pattern(size);
    payload.insert(payload.end(), data.begin(), data.end());
    return payload;
  }
};

TEST_F(ServerDma, MappedFileIsReadAndWritten) {
  const UniqueFd file = testing::make_sealed_memfd(0x10000);
  const auto data = testing::pattern(64);
  ASSERT_EQ(::pwrite(file.get(), data.data(), 64, 0x2100), 64);
  Peer peer = client();
  enable(peer);
  ASSERT_EQ(map(peer, map_request(base, 0x4000, 0x2000), {file.get()}), 0);

  start_dma(peer, base + 0x100, 64, PlainFunction::dma_from_memory);
  EXPECT_EQ(dma_status(peer), PlainFunction::dma_done);
  EXPECT_EQ(buffer(peer, 64), data);
  start_dma(peer, base + 0x3000, 64, PlainFunction::dma_to_memory);
  EXPECT_EQ(dma_status(peer), PlainFunction::dma_done);

  std::vector<std::byte> written(64);
  ASSERT_EQ(::pread(file.get(), written.data(), 64, 0x5000), 64);
  EXPECT_EQ(written, data);
}

TEST_F(ServerDma, OneFileAtTwoOffsetsIsTwoWindows) {
  const UniqueFd file = testing::make_sealed_memfd(0x20000);
  Peer peer = client();
  EXPECT_EQ(map(peer, map_request(0, 0x10000, 0), {file.get()}), 0);
  EXPECT_EQ(map(peer, map_request(0x100000, 0x10000, 0x10000), {file.get()}), 0);
  EXPECT_EQ(windows(), 2u);
}

TEST_F(ServerDma, VU18_AReplyCompletesTheTransferThatAskedForIt) {
  auto [peer, command] = client_with_pending_read();
  EXPECT_EQ(command.header.command, static_cast<std::uint16_t>(Command::dma_read));
  EXPECT_EQ(command.at<spec::DmaAccess>().address, base);
  EXPECT_EQ(command.at<spec::DmaAccess>().count, 64u);
  EXPECT_EQ(dma_status(peer), PlainFunction::dma_busy);

  peer.reply(command, read_answer(command, 64));
  pump();

  EXPECT_EQ(dma_status(peer), PlainFunction::dma_done);
  EXPECT_EQ(buffer(peer, 64), testing::pattern(64));
}

TEST_F(ServerDma, VU29_MalformedMapsAreRefused) {
  Peer peer = client();
  const auto refused = [&](spec::DmaMap request) { return map(peer, request) == EINVAL; };
  EXPECT_EQ(error_of(peer, Command::dma_map, testing::pattern(31)), EINVAL);
  auto small = map_request(base, 0x1000);
  small.argsz = 31;
  EXPECT_TRUE(refused(small));
  EXPECT_TRUE(refused(map_request(base, 0x1000, 0, 0)));
  EXPECT_TRUE(refused(map_request(base, 0x1000, 0, 7)));
  EXPECT_TRUE(refused(map_request(base, 0x1000, 0, 0x80000001)));
  EXPECT_TRUE(refused(map_request(base, 0)));
  EXPECT_TRUE(refused(map_request(UINT64_MAX - 0xfff, 0x2000)));
  EXPECT_TRUE(refused(map_request(0x2000, UINT64_MAX - 0xfff)));
  EXPECT_TRUE(refused(map_request(base + 1, 0x1000)));
  EXPECT_TRUE(refused(map_request(base, 0x1001)));
  EXPECT_EQ(windows(), 0u);
  EXPECT_EQ(map(peer, map_request(UINT64_MAX - 0xfff, 0x1000)), 0);  // up to the last address
}

TEST_F(ServerDma, VU30_OverlappingOrIdenticalMapsExist) {
  Peer peer = client();
  ASSERT_EQ(map(peer, map_request(base, 0x4000)), 0);
  EXPECT_EQ(map(peer, map_request(base, 0x4000)), EEXIST);
  EXPECT_EQ(map(peer, map_request(base + 0x3000, 0x4000)), EEXIST);
  EXPECT_EQ(map(peer, map_request(base - 0x1000, 0x8000)), EEXIST);
  EXPECT_EQ(map(peer, map_request(base + 0x4000, 0x1000)), 0);
  EXPECT_EQ(windows(), 2u);
}

TEST_F(ServerDma, VU31_MapsBeyondTheLimitFindNoRoom) {
  Peer peer = client();
  for (std::uint64_t i = 0; i < spec::default_max_dma_maps; ++i) {
    function()
        .map({.range = {memory::Iova{i * 0x2000}, 0x1000}, .port = std::make_shared<testing::DeadPort>()})
        .value();
  }
  EXPECT_EQ(map(peer, map_request(UINT64_C(1) << 40, 0x1000)), ENOSPC);
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerDma, VU32_TwoDescriptorsAreClosedAndRefused) {
  const UniqueFd file = testing::make_sealed_memfd(0x10000);
  Peer peer = client();
  const std::size_t before = open_fds();
  EXPECT_EQ(map(peer, map_request(base, 0x1000), {file.get(), file.get()}), EINVAL);
  EXPECT_EQ(open_fds(), before);
}

TEST_F(ServerDma, VU33_DescriptorsThatAreNoMemoryAreRefused) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  const UniqueFd directory(::open(dir_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const UniqueFd eventfd(::eventfd(0, EFD_CLOEXEC));
  Peer peer = client();
  const std::size_t before = open_fds();
  for (const int fd : {pipe[0], directory.get(), eventfd.get(), peer.socket().get()}) {
    EXPECT_EQ(map(peer, map_request(base, 0x1000), {fd}), EINVAL);
  }
  EXPECT_EQ(open_fds(), before);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_F(ServerDma, VU33_AReadOnlyFileIsNoMemoryToWriteTo) {
  ASSERT_TRUE(memory::install_fault_guard());
  dir_.make_file("ram", 0x10000);
  const UniqueFd file(::open(dir_.path("ram").c_str(), O_RDONLY | O_CLOEXEC));
  Peer peer = client();
  EXPECT_EQ(map(peer, map_request(base, 0x1000), {file.get()}), EACCES);
  EXPECT_EQ(map(peer, map_request(base, 0x1000, 0, 1), {file.get()}), 0);
}

TEST_F(ServerDma, VU34_AFileTooShortIsRefused) {
  const UniqueFd file = testing::make_sealed_memfd(0x3000);
  Peer peer = client();
  EXPECT_EQ(map(peer, map_request(base, 0x4000, 0), {file.get()}), EINVAL);
  EXPECT_EQ(map(peer, map_request(base, 0x1000, 0x3000), {file.get()}), EINVAL);
  EXPECT_EQ(map(peer, map_request(base, 0x2000, UINT64_MAX - 0xfff), {file.get()}), EINVAL);
  EXPECT_EQ(map(peer, map_request(base, 0x1000, 0x800), {file.get()}), EINVAL);
  EXPECT_EQ(windows(), 0u);
}

/// Memory as QEMU has it by default, which its client could truncate, sent to a server in a process without a fault guard.
/// 0 when it is refused with the reason.
int map_unsealed_memory_without_a_guard() {
  testing::TempDir dir;
  testing::ManualLoop loop;
  std::string said;
  const Log log([&](Level, std::string_view line) { said += line; });
  const auto server = Server::listen(dir.path("s"), PlainFunction::factory({}), {.loop = &loop, .log = Log(log)});
  if (!server || memory::fault_guard_installed()) return 2;
  auto peer = testing::VfioUserPeer::connect_to(dir.path("s"));
  peer.send_version("{}");
  const UniqueFd file = testing::make_memfd(0x10000);
  peer.send(spec::Command::dma_map, joined(map_request(base, 0x10000)), {.fds = {file.get()}});
  loop.run_until_idle();
  peer.receive();
  const auto reply = peer.receive();
  if (!reply || reply->error() != ENOTSUP) return 3;
  return said.find("install_fault_guard()") == std::string::npos ? 4 : 0;
}

/// The same with a server that runs as in the README. 0 when the memory is taken.
int map_unsealed_memory_while_the_server_runs() {
  testing::TempDir dir;
  auto server = Server::listen(dir.path("s"), PlainFunction::factory({}));
  if (!server || memory::fault_guard_installed()) return 2;
  std::thread runs([&] { server->run(); });
  auto peer = testing::VfioUserPeer::connect_to(dir.path("s"));
  peer.send_version("{}");
  const UniqueFd file = testing::make_memfd(0x10000);
  peer.send(spec::Command::dma_map, joined(map_request(base, 0x10000)), {.fds = {file.get()}});
  peer.receive_within(30000);
  const auto reply = peer.receive_within(30000);
  server->stop();
  runs.join();
  return reply && reply->error() == 0 ? 0 : 3;
}

TEST(ServerDmaDeathTest, VU33_WithoutAFaultGuardMemoryThatMightShrinkIsRefused) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(::_exit(map_unsealed_memory_without_a_guard()), ::testing::ExitedWithCode(0), "");
}

TEST(ServerDmaDeathTest, VU33_MemoryThatMightShrinkIsTakenByAServerThatRuns) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(::_exit(map_unsealed_memory_while_the_server_runs()), ::testing::ExitedWithCode(0), "");
}

TEST_F(ServerDma, VU31_WindowsOnOneFileShareOneMappingAndNoDescriptor) {
  const UniqueFd file = testing::make_sealed_memfd(256 * 0x1000);
  Peer peer = client();
  enable(peer);
  const std::size_t before = open_fds(), mappings = testing::own_mappings().size();
  for (std::uint64_t i = 0; i < 256; ++i) {
    ASSERT_EQ(map(peer, map_request(base + i * 0x2000, 0x1000, i * 0x1000), {file.get()}), 0);
  }
  EXPECT_EQ(open_fds(), before);
  EXPECT_LE(testing::own_mappings().size(), mappings + 64) << "one, and what the allocator wants";
  std::byte marker{0x5a};
  ASSERT_EQ(::pwrite(file.get(), &marker, 1, 200 * 0x1000), 1);
  start_dma(peer, base + 200 * 0x2000, 64, PlainFunction::dma_from_memory);
  EXPECT_EQ(dma_status(peer), PlainFunction::dma_done);
  EXPECT_EQ(buffer(peer, 1).at(0), marker);
}

TEST_F(ServerDma, VU31_AsManyFilesAsAdvertisedAreMappedAndMayBeTruncated) {
  ASSERT_TRUE(memory::install_fault_guard());
  auto other = Server::listen(dir_.path("other"), PlainFunction::factory({}), {.loop = &loop_, .log = {}});
  ASSERT_TRUE(other) << other.error().message();
  Peer peer = connect();
  peer.send_version(usual_json);
  pump();
  const auto version = peer.receive();
  ASSERT_TRUE(version);
  const std::string json(reinterpret_cast<const char*>(version->payload.data()) + 4);
  std::uint64_t advertised = 65535;
  static constexpr std::string_view name = "\"max_dma_maps\":";
  if (const auto at = json.find(name); at != std::string::npos) {
    std::from_chars(json.data() + at + name.size(), json.data() + json.size(), advertised);
  }
  enable(peer);
  const UniqueFd first = testing::make_memfd(0x2000);
  ASSERT_EQ(map(peer, map_request(base, 0x2000), {first.get()}), 0);
  const auto map_another = [&](Peer& who, std::uint64_t number) {
    return map(who, map_request((UINT64_C(1) << 40) + number * 0x1000, 0x1000), {testing::make_memfd(0x1000).get()});
  };
  int last = 0;
  std::uint64_t count = 1;
  while (count < 65535 && (last = map_another(peer, count)) == 0) ++count;
  EXPECT_GE(count, advertised);
  EXPECT_EQ(last, ENOSPC);

  ASSERT_EQ(::ftruncate(first.get(), 0x1000), 0);
  start_dma(peer, base + 0x1800, 64, PlainFunction::dma_from_memory);
  const auto snapshot = function().memory().current();
  const memory::Mapping* truncated = snapshot->find(memory::Iova{base});
  ASSERT_TRUE(truncated);
  EXPECT_TRUE(truncated->memory->poisoned(truncated->host(memory::Iova{base + 0x1800}), 64));
  EXPECT_FALSE(truncated->memory->poisoned(truncated->host(memory::Iova{base}), 0x1000)) << "what the file still has";
  EXPECT_TRUE(alive(peer));

  Peer neighbour = Peer::connect_to(dir_.path("other"));
  neighbour.send_version(usual_json);
  pump();
  ASSERT_TRUE(neighbour.receive());
  for (std::uint64_t i = 0; i < 100; ++i) ASSERT_EQ(map_another(neighbour, i), 0) << i;
}

/// Takes mappings until the process may have no more than `left` further ones.
class FewMappingsLeft {
 public:
  explicit FewMappingsLeft(std::size_t left) {
    const std::size_t taken = limit() - std::min(limit(), testing::own_mappings().size() + left);
    size_ = (taken + 1) * 4096;
    pages_ = ::mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    // Neighbours with the same protection would be one mapping.
    for (std::size_t i = 1; i < taken; i += 2) {
      EXPECT_EQ(::mprotect(static_cast<std::byte*>(pages_) + i * 4096, 4096, PROT_READ), 0);
    }
  }
  ~FewMappingsLeft() { ::munmap(pages_, size_); }
  FewMappingsLeft(const FewMappingsLeft&) = delete;
  FewMappingsLeft& operator=(const FewMappingsLeft&) = delete;

  static std::size_t limit() {
    std::size_t limit = 0;
    std::ifstream("/proc/sys/vm/max_map_count") >> limit;
    return limit;
  }

 private:
  std::size_t size_ = 0;
  void* pages_ = nullptr;
};

// The whole attack that once ended a server with 48,000 files, of which 17,300 were truncated; with fewer mappings to be had.
TEST_F(ServerDma, VU35_AClientThatTruncatesAllItsFilesHarmsItselfOnly) {
  ASSERT_TRUE(memory::install_fault_guard());
  constexpr std::size_t for_clients = 2 * 600;
  const FewMappingsLeft few(FewMappingsLeft::limit() / 8 + for_clients);
  serve();
  auto other = Server::listen(dir_.path("other"), PlainFunction::factory({}), {.loop = &loop_, .log = {}});
  ASSERT_TRUE(other) << other.error().message();
  Peer peer = client();
  enable(peer);
  const auto name = [this](std::size_t number) { return dir_.path("file" + std::to_string(number)); };
  const auto at = [](std::size_t number) { return base + number * 0x2000; };
  std::size_t count = 0;
  const auto map_another = [&] {
    const UniqueFd file = dir_.make_file("file" + std::to_string(count), 0x2000);
    return map(peer, map_request(at(count), 0x2000), {file.get()});
  };
  int last = 0;
  while (count < 60000 && (last = map_another()) == 0) ++count;
  EXPECT_EQ(last, ENOSPC);
  EXPECT_GT(count, for_clients / 4);
  EXPECT_LE(count, for_clients / 2);

  // What the program has in reserve may be gone by now.
  const FewMappingsLeft none(count + 64);
  std::size_t poisoned = 0, lost_more = 0;
  for (std::size_t i = 0; i < count; ++i) {
    ASSERT_EQ(::truncate(name(i).c_str(), 0x1000), 0);
    start_dma(peer, at(i) + 0x1000, 64, PlainFunction::dma_from_memory);
    const auto snapshot = function().memory().current();
    const memory::Mapping* window = snapshot->find(memory::Iova{at(i)});
    ASSERT_TRUE(window);
    poisoned += window->memory->poisoned(window->host(memory::Iova{at(i) + 0x1000}), 64) ? 1 : 0;
    lost_more += window->memory->poisoned(window->host(memory::Iova{at(i)}), 0x1000) ? 1 : 0;
  }
  EXPECT_EQ(poisoned, count);
  EXPECT_EQ(lost_more, 0u) << "what the files still have";
  EXPECT_TRUE(alive(peer));
  Peer neighbour = Peer::connect_to(dir_.path("other"));
  neighbour.send_version(usual_json);
  pump();
  EXPECT_TRUE(neighbour.receive());
}

TEST_F(ServerDma, AMapWhoseDescriptorWasSentWithAnotherCommandTooIsNotDone) {
  const UniqueFd file = testing::make_sealed_memfd(0x10000);
  Peer peer = client();
  auto both = peer.message(2, joined(map_request(base, 0x10000)), {.id = 70});
  const auto second = peer.message(4, joined(std::array<std::uint32_t, 4>{16, 0, 0, 0}), {.id = 71});
  both.insert(both.end(), second.begin(), second.end());
  peer.send_bytes(both, {file.get()});
  pump();
  EXPECT_TRUE(peer.closed());
  EXPECT_FALSE(peer.receive());
  EXPECT_EQ(function().memory().current()->mapping_count(), 0u);
}

TEST_F(ServerDma, VU35_UnderTheFaultGuardAFileThatShrinksPoisonsItsWindowOnly) {
  ASSERT_TRUE(memory::install_fault_guard());
  const UniqueFd file = testing::make_memfd(0x10000);
  Peer peer = client();
  enable(peer);
  ASSERT_EQ(map(peer, map_request(base, 0x10000), {file.get()}), 0);
  ASSERT_EQ(::ftruncate(file.get(), 0), 0);

  start_dma(peer, base, 64, PlainFunction::dma_from_memory);
  pump();

  const auto map = function().memory().current();
  ASSERT_TRUE(map->find(memory::Iova{base})->memory);
  EXPECT_TRUE(map->find(memory::Iova{base})->memory->poisoned());
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerDma, VU36_AMapWithoutADescriptorIsReachedByMessages) {
  auto [peer, command] = client_with_pending_read();
  peer.reply(command, read_answer(command, 64));
  pump();
  const spec::RegionAccess start{.offset = PlainFunction::dma_command_at, .region = 0, .count = 4};
  peer.send(Command::region_write, joined(start, PlainFunction::dma_to_memory));
  pump();
  std::optional<Message> write;
  while (auto message = peer.receive()) {
    if (!message->is_reply()) write = std::move(message);
  }
  ASSERT_TRUE(write);
  EXPECT_EQ(write->header.command, static_cast<std::uint16_t>(Command::dma_write));
  EXPECT_EQ(write->at<spec::DmaAccess>().count, 64u);
  EXPECT_TRUE(std::ranges::equal(write->data(16), testing::pattern(64)));

  peer.reply(*write, joined(write->at<spec::DmaAccess>()));
  pump();

  EXPECT_EQ(dma_status(peer), PlainFunction::dma_done);
}

TEST_F(ServerDma, VU37_UnmappingPartOfAWindowIsRefused) {
  Peer peer = client();
  ASSERT_EQ(map(peer, map_request(base, 0x4000)), 0);
  EXPECT_EQ(unmap(peer, base, 0x1000), EINVAL);
  EXPECT_EQ(unmap(peer, base + 0x1000, 0x10000), EINVAL);
  EXPECT_EQ(windows(), 1u);
}

TEST_F(ServerDma, VU37_ARefusedUnmapLeavesDmaInFlightAlone) {
  auto [peer, command] = client_with_pending_read();
  EXPECT_EQ(unmap(peer, base, 0x1000), EINVAL);
  EXPECT_EQ(unmap(peer, base + 0x100000, 0x1000), ENOENT);
  EXPECT_EQ(dma_status(peer), PlainFunction::dma_busy);
  peer.reply(command, read_answer(command, 64));
  pump();
  EXPECT_EQ(dma_status(peer), PlainFunction::dma_done);
}

// SPDK's client sends the memory's file once more.
TEST_F(ServerDma, AnUnmapThatBringsTheFileOfItsMemoryIsDone) {
  Peer peer = client();
  ASSERT_EQ(map(peer, map_request(base, 0x4000)), 0);
  const std::size_t before = open_fds();
  const UniqueFd file = testing::make_memfd(0x4000);
  const std::vector<int> fds{file.get()};
  EXPECT_EQ(error_of(peer, Command::dma_unmap, joined(unmap_request(base, 0x4000)), {.fds = fds}), 0);
  EXPECT_EQ(windows(), 0u);
  EXPECT_EQ(open_fds(), before + 1) << "ours";
}

TEST_F(ServerDma, VU38_UnmappingSeveralWholeWindowsRemovesAll) {
  Peer peer = client();
  for (std::uint64_t i = 0; i < 3; ++i) ASSERT_EQ(map(peer, map_request(base + i * 0x2000, 0x1000)), 0);
  const auto request = unmap_request(base - 0x1000, 0x10000);
  const auto reply = exchange(peer, Command::dma_unmap, joined(request));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->payload, joined(request));
  EXPECT_EQ(windows(), 0u);
}

TEST_F(ServerDma, VU39_UnmappingNothingFindsNoEntry) {
  Peer peer = client();
  EXPECT_EQ(unmap(peer, base, 0x1000), ENOENT);
}

TEST_F(ServerDma, VU40_UnmapFlags) {
  Peer peer = client();
  ASSERT_EQ(map(peer, map_request(base, 0x1000)), 0);
  EXPECT_EQ(unmap(peer, base, 0x1000, 1), ENOTSUP);
  EXPECT_EQ(unmap(peer, base, 0x1000, 4), EINVAL);
  EXPECT_EQ(unmap(peer, base, 0x1000, 2), EINVAL);
  EXPECT_EQ(unmap(peer, base, 0), EINVAL);
  EXPECT_EQ(unmap(peer, UINT64_MAX, 2), EINVAL);
  EXPECT_EQ(error_of(peer, Command::dma_unmap, testing::pattern(23)), EINVAL);
  EXPECT_EQ(windows(), 1u);
  EXPECT_EQ(unmap(peer, 0, 0, 2), 0);
  EXPECT_EQ(windows(), 0u);
}

TEST_F(ServerDma, VU41_UnmapWaitsForAccessesAndHoldsBackWhatFollows) {
  Peer peer = client();
  SlowUser user(loop_);
  function().memory().add_user(user);
  ASSERT_EQ(map(peer, map_request(base, 0x1000)), 0);
  peer.send(Command::dma_unmap, joined(unmap_request(base, 0x1000)), {.id = 900});
  peer.send(Command::device_get_info, joined(vfio_abi::DeviceInfo{.argsz = 16}), {.id = 901});
  pump();
  EXPECT_FALSE(peer.receive());

  user.let_go();
  pump();

  const auto first = peer.receive();
  const auto second = peer.receive();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->header.msg_id, 900);
  EXPECT_EQ(first->error(), 0);
  EXPECT_EQ(second->header.msg_id, 901);
  function().memory().remove_user(user);
}

TEST_F(ServerDma, VU41_AnUnmapThatTakesTooLongIsAnsweredInTime) {
  Peer peer = client();
  SlowUser user(loop_);
  function().memory().add_user(user);
  ASSERT_EQ(map(peer, map_request(base, 0x1000)), 0);
  ASSERT_EQ(map(peer, map_request(base + 0x1000, 0x1000)), 0);
  peer.send(Command::dma_unmap, joined(unmap_request(base, 0x1000)));
  pump();
  loop_.advance(std::chrono::milliseconds(1999));
  EXPECT_FALSE(peer.receive());
  loop_.advance(std::chrono::milliseconds(2));
  const auto reply = peer.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), ETIMEDOUT);
  EXPECT_EQ(function().late_unmaps, 1U) << "the device breaks, not the connection";
  EXPECT_TRUE(alive(peer));
  EXPECT_EQ(unmap(peer, base + 0x1000, 0x1000), EBUSY);

  user.let_go();
  pump();

  EXPECT_FALSE(peer.receive());
  EXPECT_TRUE(alive(peer));
  function().memory().remove_user(user);
}

TEST_F(ServerDma, VU4_ACommandThatTheServerHoldsBackDoesNotStall) {
  server_options_.stall_timeout = std::chrono::seconds(1);
  Peer peer = client();
  SlowUser user(loop_);
  function().memory().add_user(user);
  ASSERT_EQ(map(peer, map_request(base, 0x1000)), 0);
  peer.send(Command::dma_unmap, joined(unmap_request(base, 0x1000)));
  const spec::RegionAccess access{.offset = 0, .region = pci::region::config, .count = 4};
  peer.send(Command::region_read, joined(access));
  pump();

  loop_.advance(std::chrono::milliseconds(1500));
  user.let_go();
  pump();

  for (const auto command : {Command::dma_unmap, Command::region_read}) {
    const auto reply = peer.receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->header.command, static_cast<std::uint16_t>(command));
    EXPECT_EQ(reply->error(), 0);
  }
  EXPECT_TRUE(alive(peer));
  function().memory().remove_user(user);
}

TEST_F(ServerDma, VU41_AnUnmapThatEndsWhenItIsCalledLateIsAnsweredOnce) {
  Peer peer = client();
  SlowUser user(loop_);
  function().memory().add_user(user);
  ASSERT_EQ(map(peer, map_request(base, 0x1000)), 0);
  function().on_late_unmap = [&] { user.let_go(); };
  peer.send(Command::dma_unmap, joined(unmap_request(base, 0x1000)));
  pump();

  loop_.advance(std::chrono::seconds(3));

  const auto reply = peer.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), ETIMEDOUT);
  EXPECT_FALSE(peer.receive()) << "nor a second time";
  EXPECT_TRUE(alive(peer));
  function().memory().remove_user(user);
}

TEST_F(ServerDma, VU41_IfAClientLeavesDuringAnUnmapTheNextWaitsForItsEnd) {
  Peer peer = client();
  SlowUser user(loop_);
  function().memory().add_user(user);
  ASSERT_EQ(map(peer, map_request(base, 0x1000)), 0);
  peer.send(Command::dma_unmap, joined(unmap_request(base, 0x1000)));
  pump();
  peer.close();
  pump();
  Peer next = Peer::connect_to(path());
  next.send_version(usual_json);
  pump();
  EXPECT_FALSE(next.receive());

  user.let_go();
  pump();
  user.let_go();  // the release that follows
  pump();

  const auto reply = next.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), 0);
  function().memory().remove_user(user);
}

TEST_F(ServerDma, VU63_UntilTheLastClientIsReleasedTheNextIsToldBusy) {
  Peer peer = client();
  SlowUser user(loop_);
  function().memory().add_user(user);
  ASSERT_EQ(map(peer, map_request(base, 0x1000)), 0);
  peer.close();
  pump();
  const auto version = [&](Peer& next) {
    const auto reply = next.receive();
    return reply ? reply->error() : -1;
  };
  Peer waiting = Peer::connect_to(path());
  waiting.send_version(usual_json);
  pump();
  EXPECT_EQ(version(waiting), -1) << "a release is quick, as a rule";
  loop_.advance(std::chrono::milliseconds(2001));
  EXPECT_EQ(version(waiting), EBUSY);
  Peer later = Peer::connect_to(path());
  later.send_version(usual_json);
  pump();
  EXPECT_EQ(version(later), EBUSY) << "at once from then on";

  user.let_go();
  pump();
  Peer next = client();
  EXPECT_TRUE(alive(next));
  EXPECT_EQ(windows(), 0U);
  function().memory().remove_user(user);
}

TEST_F(ServerDma, VU61_ResetIgnoresAPayload) {
  Peer peer = client();
  EXPECT_EQ(error_of(peer, Command::device_reset, testing::pattern(100)), 0);
  EXPECT_EQ(function().resets(), 1u);
}

TEST_F(ServerDma, VU62_ResetIsAnsweredWhenTheFunctionHasStopped) {
  serve({.slow_reset = true});
  Peer peer = client();
  const auto id = peer.send(Command::device_reset);
  peer.send(Command::device_get_info, joined(vfio_abi::DeviceInfo{.argsz = 16}));
  pump();
  EXPECT_FALSE(peer.receive());
  function().finish_reset();
  pump();
  const auto reply = peer.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->header.msg_id, id);
  EXPECT_EQ(reply->error(), 0);
  EXPECT_TRUE(peer.receive());
}

TEST_F(ServerDma, VU62_ResetDoesNotWaitForADmaReply) {
  auto [peer, command] = client_with_pending_read();

  EXPECT_EQ(error_of(peer, Command::device_reset), 0);

  // The answer comes late, for nobody.
  peer.reply(command, read_answer(command, 64));
  EXPECT_TRUE(alive(peer));
  EXPECT_EQ(function().resets(), 1u);
}

TEST_F(ServerDma, VU62_AResetThatTakesTooLongIsAnsweredInTime) {
  serve({.slow_reset = true});
  Peer peer = client();
  peer.send(Command::device_reset);
  pump();
  loop_.advance(std::chrono::milliseconds(2001));
  const auto reply = peer.receive();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error(), ETIMEDOUT);
  EXPECT_EQ(error_of(peer, Command::device_reset), EBUSY);
  function().finish_reset();
  pump();
  EXPECT_FALSE(peer.receive());
}

TEST_F(ServerDma, VU63_AClientThatVanishesWithDmaInFlightIsCleanedUpAfter) {
  {
    auto [peer, command] = client_with_pending_read();
    ASSERT_EQ(windows(), 1u);
  }
  pump();
  EXPECT_EQ(windows(), 0u);
  Peer next = client();
  EXPECT_EQ(dma_status(next), failed(ECONNRESET));
}

TEST_F(ServerDma, VU63_MemoryOfAClientThatVanishedIsUnmapped) {
  const UniqueFd file = testing::make_sealed_memfd(0x10000);
  Peer peer = client();
  ASSERT_EQ(map(peer, map_request(base, 0x10000), {file.get()}), 0);
  peer.close();
  pump();
  EXPECT_EQ(windows(), 0u);
}

TEST_F(ServerDma, VU67_ADmaReplyThatDoesNotFitFailsThatTransfer) {
  const auto spoil = [&](auto&& change) {
    auto [peer, command] = client_with_pending_read();
    auto answer = read_answer(command, 64);
    change(answer);
    peer.reply(command, answer);
    pump();
    return dma_status(peer);
  };
  EXPECT_EQ(spoil([](auto& bytes) { bytes.resize(bytes.size() - 1); }), failed(EPROTO));
  EXPECT_EQ(spoil([](auto& bytes) { bytes.resize(bytes.size() + 1); }), failed(EPROTO));
  EXPECT_EQ(spoil([](auto& bytes) { bytes.resize(3); }), failed(EPROTO));
  EXPECT_EQ(spoil([](auto& bytes) { bytes.clear(); }), failed(EPROTO));
  EXPECT_EQ(spoil([](auto& bytes) { bytes[0] ^= std::byte{1}; }), failed(EPROTO));
  EXPECT_EQ(spoil([](auto& bytes) { bytes[8] ^= std::byte{1}; }), failed(EPROTO));
  EXPECT_EQ(spoil([](auto&) {}), PlainFunction::dma_done);
}

TEST_F(ServerDma, VU67_AWriteIsAcknowledgedWith0Or12Or16Bytes) {
  for (const std::size_t size : {0u, 12u, 16u, 8u}) {
    auto [peer, read] = client_with_pending_read();
    peer.reply(read, read_answer(read, 64));
    pump();
    const spec::RegionAccess start{.offset = PlainFunction::dma_command_at, .region = 0, .count = 4};
    peer.send(Command::region_write, joined(start, PlainFunction::dma_to_memory), {.flags = spec::flag::no_reply});
    pump();
    const auto write = peer.receive();
    ASSERT_TRUE(write);
    peer.reply(*write, Bytes(write->payload).first(size));
    pump();
    EXPECT_EQ(dma_status(peer), size == 8 ? failed(EPROTO) : PlainFunction::dma_done) << size;
  }
}

TEST_F(ServerDma, VU67_AnErrorReplyFailsTheTransferAndNeverReadsAsSuccess) {
  for (const auto& [sent, expected] : {std::pair{EFAULT, EFAULT}, std::pair{0, EIO}, std::pair{5000, EIO}}) {
    auto [peer, command] = client_with_pending_read();
    peer.reply_error(command, sent);
    pump();
    EXPECT_EQ(dma_status(peer), failed(expected));
  }
}

TEST_F(ServerDma, VU68_AReplyAfterTheUnmapIsDrained) {
  auto [peer, command] = client_with_pending_read();
  EXPECT_EQ(unmap(peer, base, 0x10000), 0);
  EXPECT_EQ(dma_status(peer), failed(EFAULT));

  peer.reply(command, read_answer(command, 64));
  pump();

  EXPECT_TRUE(alive(peer));
  EXPECT_EQ(buffer(peer, 64), std::vector<std::byte>(64));
}

TEST_F(ServerDma, VU68_AReplyAfterTheDeadlineIsDrained) {
  auto [peer, command] = client_with_pending_read();
  loop_.advance(std::chrono::seconds(31));
  EXPECT_EQ(dma_status(peer), failed(ETIMEDOUT));

  peer.reply(command, read_answer(command, 64));
  pump();

  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerDma, VU19_AReplyForAnotherCommandIsFatal) {
  auto [peer, command] = client_with_pending_read();
  command.header.command = static_cast<std::uint16_t>(Command::dma_write);
  peer.reply(command, read_answer(command, 64));
  EXPECT_TRUE(dropped_and_serving(peer));
}

TEST_F(ServerDma, VU27_WithoutTransferSizeMessagesFailAtOnce) {
  Peer peer = client(R"({"capabilities":{"max_data_xfer_size":0}})");
  enable(peer);
  ASSERT_EQ(map(peer, map_request(base, 0x1000)), 0);
  start_dma(peer, base, 64, PlainFunction::dma_from_memory);
  EXPECT_EQ(dma_status(peer), failed(ENOTSUP));
}

/// Ends an unmap only when it is told that this one is late.
class EndsWhenLate final : public testing::IdleFunction {
 public:
  explicit EndsWhenLate(std::vector<Completion>& unmaps) : unmaps_(unmaps) {}
  void unmap(memory::IovaRange, Completion done) override { unmaps_.push_back(std::move(done)); }
  void unmap_is_late(std::string_view) override { std::exchange(unmaps_.front(), nullptr)({}); }

 private:
  std::vector<Completion>& unmaps_;
};

TEST_F(ServerDma, VU41_TheUnmapAfterOneThatEndsLateHasItsTime) {
  std::vector<pci::Function::Completion> unmaps;
  vfio_user::Server::Options options = server_options_;
  options.loop = &loop_;
  server_.emplace(
      Server::listen(
          path(),
          [&](Loop&, Log) -> Result<std::unique_ptr<pci::Function>> { return std::make_unique<EndsWhenLate>(unmaps); },
          options)
          .value());
  Peer peer = client();
  peer.send(Command::dma_unmap, joined(unmap_request(base, 0x1000)), {.id = 900});
  peer.send(Command::dma_unmap, joined(unmap_request(base + 0x1000, 0x1000)), {.id = 901});
  pump();
  ASSERT_EQ(unmaps.size(), 1U);

  loop_.advance(std::chrono::seconds(2));

  const auto first = peer.receive();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->header.msg_id, 900);
  EXPECT_EQ(first->error(), 0) << "it has ended when the function was told";
  ASSERT_EQ(unmaps.size(), 2U);
  EXPECT_FALSE(peer.receive()) << "the second is not late";
  unmaps[1]({});
  pump();
  const auto second = peer.receive();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->header.msg_id, 901);
  EXPECT_EQ(second->error(), 0);
}

}  // namespace
}  // namespace outboard::vfio_user
