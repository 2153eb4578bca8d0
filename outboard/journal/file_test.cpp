// The file of a journal: what it is refused for, what it gives back, and what it does when it is damaged. That no kill
// loses anything is shown by tests/crash.

#include <outboard/journal/file.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <system_error>

#include <gtest/gtest.h>

#include <outboard/journal/internal/layout.hpp>
#include <outboard/memory/fault_guard.hpp>
#include <tests/support/device_rig.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::journal {
namespace {

using testing::DeviceRig;
using testing::HandDriver;
namespace spec = virtio::spec;
namespace bit = spec::status;

constexpr std::uint8_t live = bit::acknowledge | bit::driver | bit::features_ok | bit::driver_ok;

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> read_file(const std::string& path) {
  std::vector<std::byte> bytes(std::filesystem::file_size(path));
  std::ifstream(path, std::ios::binary)
      .read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

/// In place where the size is the same: file systems write a file to the disk when it is closed after a truncation, which
/// would be most of the time of a test that writes thousands.
void write_file(const std::string& path, Bytes bytes) {
  std::error_code missing;
  const bool in_place = std::filesystem::file_size(path, missing) == bytes.size() && !missing;
  std::ofstream(path, std::ios::binary | (in_place ? std::ios::in | std::ios::out : std::ios::trunc))
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

File::Shape small_shape() {
  return {.instance = bytes_of("a node"),
          .device_id = 2,
          .offered = virtio::Features{virtio::Feature::version_1, virtio::Feature::ring_packed},
          .queue_sizes = {8, 16},
          .config_size = 60};
}

class JournalFile : public ::testing::Test {
 protected:
  std::unique_ptr<File> create(const File::Shape& shape = small_shape()) {
    auto made = File::create(path, shape);
    EXPECT_TRUE(made) << made.error().message();
    return made ? std::move(*made) : nullptr;
  }
  /// What opening the file says, after `change` to it; 0: nothing.
  int opened_after(const std::function<void(std::vector<std::byte>&)>& change) {
    auto bytes = whole_;
    change(bytes);
    write_file(path, bytes);
    return opened(small_shape());
  }
  int opened(const File::Shape& shape) {
    const auto file = File::open(path, shape);
    said = file ? std::string() : file.error().message();
    return file ? 0 : file.error().code();
  }
  void SetUp() override {
    if (create()) whole_ = read_file(path);
  }

  /// The header with `change`, and a checksum that fits.
  static void rewrite(std::vector<std::byte>& bytes, const std::function<void(layout::Header&)>& change) {
    layout::Header header{};
    std::memcpy(&header, bytes.data(), sizeof header);
    change(header);
    header.checksum = 0;
    const std::size_t table = 2 * sizeof(le16);
    header.checksum = layout::crc32c(Bytes(bytes).subspan(sizeof header, table), layout::crc32c(as_bytes_of(header)));
    std::memcpy(bytes.data(), &header, sizeof header);
  }

  testing::TempDir dir;
  std::string path = dir.path("log");
  std::string said;
  std::vector<std::byte> whole_;
};

TEST(JournalChecksum, IsTheOneThatEverybodyCallsCrc32c) {
  EXPECT_EQ(layout::crc32c(bytes_of("123456789")), 0xe3069283);
  EXPECT_EQ(layout::crc32c(bytes_of("6789"), layout::crc32c(bytes_of("12345"))), 0xe3069283);
}

TEST_F(JournalFile, IsWholeForItsOwnerAloneAndClosedOnExec) {
  struct stat info{};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  EXPECT_GE(info.st_blocks * 512, info.st_size) << "no store can find the file system full";
  EXPECT_EQ(opened(small_shape()), 0) << said;
}

TEST_F(JournalFile, SaysWhatItWasMadeFor) {
  const auto shape = File::shape_of(path);
  ASSERT_TRUE(shape) << shape.error().message();
  EXPECT_EQ(shape->instance, small_shape().instance);
  EXPECT_EQ(shape->device_id, small_shape().device_id);
  EXPECT_EQ(shape->offered, small_shape().offered);
  EXPECT_EQ(shape->queue_sizes, small_shape().queue_sizes);
  EXPECT_EQ(shape->config_size, small_shape().config_size);
  EXPECT_EQ(File::shape_of(dir.path("none")).error().code(), ENOENT);
  write_file(dir.path("short"), std::vector<std::byte>(whole_.begin(), whole_.begin() + 100));
  EXPECT_EQ(File::shape_of(dir.path("short")).error().code(), EBADMSG);
}

TEST_F(JournalFile, KeepsWhichStorageStandsBehindTheDevice) {
  EXPECT_TRUE(File::open(path, small_shape()).value()->storage()->empty());
  const std::vector<std::byte> most(File::max_storage, std::byte{7});
  {
    const auto file = File::open(path, small_shape()).value();
    EXPECT_TRUE(file->set_storage(most));
    EXPECT_EQ(file->set_storage(std::vector<std::byte>(most.size() + 1)).error().code(), EINVAL);
  }
  EXPECT_EQ(File::open(path, small_shape()).value()->storage().value(), most);
}

/// What a server of the version before made: the same file without its last area.
TEST_F(JournalFile, OfVersion1IsReadAndStaysWithoutTheStorage) {
  const auto shape = small_shape();
  const auto as_it_was = [&](auto& bytes) {
    const auto places = layout::places(shape.queue_sizes, shape.config_size, true, layout::first_version);
    bytes.resize(places.file_size);
    rewrite(bytes, [&](auto& header) {
      header.version = layout::first_version;
      header.file_size = places.file_size;
    });
  };
  ASSERT_EQ(opened_after(as_it_was), 0) << said;
  const auto file = File::open(path, shape).value();
  EXPECT_TRUE(file->set_storage(bytes_of("something")));
  EXPECT_TRUE(file->storage()->empty());
  EXPECT_TRUE(file->set_transport(bytes_of("a transport's")));
  EXPECT_EQ(file->transport().value(), bytes_of("a transport's"));
}

TEST_F(JournalFile, IsNotMadeWhereThereIsOne) {
  const auto again = File::create(path, small_shape());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), EEXIST);
  EXPECT_EQ(read_file(path), whole_);
}

TEST_F(JournalFile, ThatCannotBeMadeLeavesNothingBehind) {
  const auto nowhere = File::create(dir.path("no/such/folder"), small_shape());
  EXPECT_EQ(nowhere.error().code(), ENOENT);
  auto shape = small_shape();
  shape.instance.resize(File::max_instance + 1);
  EXPECT_EQ(File::create(dir.path("other"), shape).error().code(), EINVAL);
  shape = small_shape();
  shape.queue_sizes.push_back(0);
  EXPECT_EQ(File::create(dir.path("other"), shape).error().code(), EINVAL);
  shape = small_shape();
  shape.config_size = File::max_config + 1;
  EXPECT_EQ(File::create(dir.path("other"), shape).error().code(), EINVAL);
  EXPECT_FALSE(std::filesystem::exists(dir.path("other")));
}

TEST_F(JournalFile, ThatIsMissingIsRefused) {
  std::filesystem::remove(path);
  EXPECT_EQ(opened(small_shape()), ENOENT);
  EXPECT_NE(said.find("there is no journal"), std::string::npos) << said;
}

TEST_F(JournalFile, ThatIsNoRegularFileIsRefused) {
  std::filesystem::remove(path);
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(opened(small_shape()), EBADMSG);
  std::filesystem::remove(path);
  std::filesystem::create_symlink(dir.path("elsewhere"), path);
  write_file(dir.path("elsewhere"), whole_);
  EXPECT_EQ(opened(small_shape()), ELOOP);
}

TEST_F(JournalFile, OfAnotherLengthIsRefused) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{100}, sizeof(layout::Header), std::size_t{4096},
                                 whole_.size() - 1, whole_.size() + 1, 2 * whole_.size()}) {
    EXPECT_EQ(opened_after([&](auto& bytes) { bytes.resize(size); }), EBADMSG) << size;
    EXPECT_NE(said.find("damaged"), std::string::npos) << said;
  }
}

TEST_F(JournalFile, ThatIsSomethingElseOrWasNeverFinishedIsRefused) {
  EXPECT_EQ(opened_after([](auto& bytes) { bytes[3] = std::byte{'x'}; }), EBADMSG);
  EXPECT_NE(said.find("it is not a journal"), std::string::npos) << said;
  EXPECT_EQ(opened_after([](auto& bytes) { std::fill_n(bytes.begin(), 8, std::byte{0}); }), EBADMSG);
  EXPECT_NE(said.find("never finished"), std::string::npos) << said;
}

TEST_F(JournalFile, OfAnotherVersionIsRefused) {
  EXPECT_EQ(opened_after([](auto& bytes) { rewrite(bytes, [](auto& header) { header.version = 3; }); }), ENOTSUP);
  EXPECT_NE(said.find("version 3"), std::string::npos) << said;
}

TEST_F(JournalFile, WithAWrongChecksumIsRefused) {
  EXPECT_EQ(opened_after([](auto& bytes) { bytes[sizeof(layout::Header)] ^= std::byte{1}; }), EBADMSG);
  EXPECT_NE(said.find("checksum"), std::string::npos) << said;
}

TEST_F(JournalFile, FromBeforeTheMachineWasStartedIsRefused) {
  EXPECT_EQ(opened_after([](auto& bytes) { rewrite(bytes, [](auto& header) { ++header.boot_id[0]; }); }), ESTALE);
  EXPECT_NE(said.find("before the last boot"), std::string::npos) << said;
}

TEST_F(JournalFile, OfAnotherDeviceIsRefusedWithWhatDiffers) {
  const auto refused = [&](int code, std::string_view what, const std::function<void(File::Shape&)>& change) {
    auto shape = small_shape();
    change(shape);
    EXPECT_EQ(opened(shape), code) << what;
    EXPECT_NE(said.find(what), std::string::npos) << said;
  };
  refused(ESTALE, "another device", [](auto& shape) { shape.instance = bytes_of("a nose"); });
  refused(ESTALE, "another device", [](auto& shape) { shape.instance.push_back(std::byte{0}); });
  refused(EINVAL, "ID 2, not 1", [](auto& shape) { shape.device_id = 1; });
  refused(EINVAL, "set of features", [](auto& shape) { shape.offered.set(virtio::Feature::in_order); });
  refused(EINVAL, "they differ in bit 35 (not offered before)",
          [](auto& shape) { shape.offered.set(virtio::Feature::in_order); });
  refused(EINVAL, "number of queues: 2, not 1", [](auto& shape) { shape.queue_sizes.pop_back(); });
  refused(EINVAL, "size of a queue", [](auto& shape) { shape.queue_sizes[0] = 16; });
  refused(EINVAL, "60, not 61 bytes", [](auto& shape) { shape.config_size = 61; });
  EXPECT_EQ(opened(small_shape()), 0) << said;
}

TEST_F(JournalFile, InUseIsRefusedUntilItsOwnerIsKilled) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto held = File::open(path, small_shape());
    const char told = held ? 'y' : 'n';
    if (::write(ready[1], &told, 1) != 1) ::_exit(1);
    while (true) ::pause();
  }
  char told = 0;
  ASSERT_EQ(::read(ready[0], &told, 1), 1);
  EXPECT_EQ(told, 'y');
  EXPECT_EQ(opened(small_shape()), EBUSY);
  EXPECT_NE(said.find("process " + std::to_string(child)), std::string::npos) << said;
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  const auto file = File::open(path, small_shape());
  ASSERT_TRUE(file) << file.error().message();
  EXPECT_EQ((*file)->predecessor().pid, child);
  EXPECT_NE((*file)->predecessor().start_time, 0U);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(JournalFile, IsRemovedWithItsDevice) {
  const auto file = File::open(path, small_shape());
  ASSERT_TRUE(file);
  EXPECT_EQ((*file)->predecessor(), File::Process{}) << "nobody else had it";
  EXPECT_TRUE((*file)->remove());
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_EQ((*file)->remove().error().code(), ENOENT);
}

TEST_F(JournalFile, OfADeviceThatIsNoMoreIsDiscarded) {
  EXPECT_TRUE(File::discard(path));
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_TRUE(File::discard(path)) << "there is none";
  auto bytes = whole_;
  bytes[sizeof(layout::Header) - 1] ^= std::byte{1};
  write_file(path, bytes);
  EXPECT_TRUE(File::discard(path)) << "a damaged one is one";
}

TEST_F(JournalFile, InUseIsNotDiscarded) {
  const auto held = File::open(path, small_shape());
  ASSERT_TRUE(held);
  EXPECT_EQ(File::discard(path).error().code(), EBUSY);
  EXPECT_TRUE(std::filesystem::exists(path));
}

TEST_F(JournalFile, OfADeviceThatIsThereIsNotDiscarded) {
  std::vector<std::byte> asked;
  const auto lives = [&](Bytes instance) {
    asked.assign(instance.begin(), instance.end());
    return true;
  };
  EXPECT_EQ(File::discard(path, lives).error().code(), EEXIST);
  EXPECT_TRUE(std::ranges::equal(asked, small_shape().instance));
  EXPECT_TRUE(std::filesystem::exists(path));
  EXPECT_TRUE(File::discard(path, [](Bytes) { return false; }));
}

TEST_F(JournalFile, ThatIsSomethingElseIsNotDiscarded) {
  write_file(path, bytes_of("root:x:0:0:root:/root:/bin/sh\n"));
  EXPECT_EQ(File::discard(path).error().code(), EBADMSG);
  write_file(path, bytes_of("x\n"));
  EXPECT_EQ(File::discard(path).error().code(), EBADMSG);
  write_file(path, std::vector<std::byte>(65536, std::byte{0x55}));
  EXPECT_EQ(File::discard(path).error().code(), EBADMSG);
  EXPECT_EQ(File::discard(dir.path()).error().code(), EISDIR);
  EXPECT_TRUE(std::filesystem::exists(path));
}

TEST_F(JournalFile, ThatWasNeverFinishedIsDiscarded) {
  for (const std::size_t size : {std::size_t{0}, whole_.size()}) {
    std::filesystem::remove(path);
    write_file(path, std::vector<std::byte>(size));
    ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
    EXPECT_TRUE(File::discard(path)) << size;
  }
  auto bytes = whole_;
  std::ranges::fill(std::span(bytes).first(sizeof(std::uint64_t)), std::byte{0});
  write_file(path, bytes);
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  EXPECT_TRUE(File::discard(path)) << "the magic comes last";
}

TEST_F(JournalFile, KeepsWhatTheTransportPutsIntoIt) {
  {
    const auto file = File::open(path, small_shape());
    ASSERT_TRUE(file);
    EXPECT_TRUE((*file)->transport()->empty());
    EXPECT_TRUE((*file)->config()->empty());
    EXPECT_TRUE((*file)->set_transport(bytes_of("first")));
    EXPECT_TRUE((*file)->set_transport(std::vector<std::byte>(File::max_transport, std::byte{1})));
    EXPECT_TRUE((*file)->set_transport(bytes_of("groups and spaces")));
    EXPECT_TRUE((*file)->set_config(std::vector<std::byte>(60, std::byte{9})));
    EXPECT_EQ((*file)->set_transport(std::vector<std::byte>(File::max_transport + 1)).error().code(), EINVAL);
    EXPECT_EQ((*file)->set_config(std::vector<std::byte>(61)).error().code(), EINVAL);
  }
  const auto file = File::open(path, small_shape());
  ASSERT_TRUE(file);
  EXPECT_EQ((*file)->transport().value(), bytes_of("groups and spaces"));
  EXPECT_EQ((*file)->config().value(), std::vector<std::byte>(60, std::byte{9}));
}

// A device that was killed: its core is abandoned, and the file and the rings are as they were.

class Recovered : public ::testing::TestWithParam<bool> {
 protected:
  Recovered() : path(dir.path("log")), shape(shape_of()) {
    auto made = File::create(path, shape);
    EXPECT_TRUE(made);
    journal = std::move(*made);
    rig = make();
  }
  File::Shape shape_of() const {
    const DeviceRig probe({.packed = GetParam(), .queues = 2});
    return {.instance = bytes_of("one"),
            .device_id = 63,
            .offered = probe.core->offered(),
            .queue_sizes = {16, 16},
            .config_size = 8};
  }
  std::unique_ptr<DeviceRig> make() {
    return std::make_unique<DeviceRig>(
        DeviceRig::Setup{.packed = GetParam(), .queues = 2, .options = {.journal = journal.get()}});
  }
  void run() {
    rig->device.on_request = rig->device.keep();
    rig->run();
  }
  /// Another device object with the rings of the first, and the file opened again.
  void kill() {
    dead = std::move(rig);
    journal.reset();
    auto opened = File::open(path, shape);
    ASSERT_TRUE(opened) << opened.error().message();
    journal = std::move(*opened);
    rig = make();
    for (const auto& driver : dead->drivers) ASSERT_TRUE(rig->map.map(driver->mapping()));
  }
  /// The rings' memory for a device that comes from a file of these bytes.
  Result<virtio::DeviceState> recover_from(Bytes bytes) {
    const std::string copy = dir.path("copy");
    write_file(copy, bytes);
    OUTBOARD_TRY(const auto opened, File::open(copy, shape));
    return opened->recover(rig->map);
  }
  HandDriver& driver(unsigned queue = 0) { return (dead ? dead : rig)->driver(queue); }

  testing::TempDir dir;
  std::string path;
  File::Shape shape;
  std::unique_ptr<File> journal;
  std::unique_ptr<DeviceRig> dead, rig;
};
INSTANTIATE_TEST_SUITE_P(Rings, Recovered, ::testing::Bool(),
                         [](const auto& format) { return format.param ? "Packed" : "Split"; });

TEST_P(Recovered, WhatWasInFlightComesAgainInItsOrder) {
  run();
  std::vector<std::uint32_t> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(driver().chain().readable("abcde").writable(8).publish());
  driver(1).chain().readable("other").writable(5).publish();
  rig->process(0);
  rig->process(1);
  ASSERT_EQ(rig->device.kept.size(), 6U);
  rig->device.kept[2].complete();
  rig->settle();
  EXPECT_EQ(driver().take_used().size(), 1U);
  kill();

  const auto state = journal->recover(rig->map);
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_EQ(state->status, live);
  EXPECT_EQ(state->device_id, 63U);
  EXPECT_EQ(state->accepted, rig->core->offered());
  EXPECT_FALSE(state->device);
  EXPECT_EQ(state->queues[0].in_flight.size(), 4U);
  EXPECT_EQ(state->queues[1].in_flight.size(), 1U);
  EXPECT_EQ(journal->recover(rig->map).value(), *state) << "and may be asked for again";
  ASSERT_TRUE(rig->core->restore(*state));
  rig->settle();
  std::vector<HandDriver::Used> expected;
  for (const std::uint32_t id : {ids[0], ids[1], ids[3], ids[4]}) expected.push_back({id, 5});
  EXPECT_EQ(driver().take_used(), expected);
  EXPECT_EQ(driver(1).take_used().size(), 1U);
}

TEST_P(Recovered, AFileThatIsTruncatedIsFoundOutAndAnotherTakesItsPlace) {
  ASSERT_TRUE(memory::install_fault_guard());
  run();
  unsigned told = 0;
  journal->on_lost([&] { ++told; });
  for (int i = 0; i < 3; ++i) driver().chain().readable("abc").writable(8).publish();
  rig->process(0);
  std::filesystem::resize_file(path, 0);
  EXPECT_EQ(told, 0U) << "nothing has been noted since";
  for (int i = 0; i < 2; ++i) driver().chain().readable("def").writable(8).publish();
  rig->process(0);
  EXPECT_EQ(told, 1U);
  rig->device.kept[1].complete();
  rig->settle();

  path = dir.path("another");
  auto another = File::create(path, shape);
  ASSERT_TRUE(another);
  bool done = false;
  rig->core->change_journal(**another, [&] { done = true; });
  rig->settle();
  ASSERT_TRUE(done);
  journal = std::move(*another);
  // It goes on from there, also with what the old one had been told of.
  rig->device.kept[0].complete();
  driver().chain().readable("ghi").writable(8).publish();
  rig->process(0);
  EXPECT_EQ(driver().take_used().size(), 2U);
  kill();

  const auto state = journal->recover(rig->map);
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_EQ(state->status, live);
  EXPECT_EQ(state->queues[0].in_flight.size(), 4U);
  ASSERT_TRUE(rig->core->restore(*state));
  rig->settle();
  EXPECT_EQ(driver().take_used().size(), 4U);
}

TEST_P(Recovered, ItSaysWhatACaptureWouldHaveSaid) {
  run();
  for (int i = 0; i < 4; ++i) driver().chain().readable("abc").writable(8).publish();
  rig->process(0);
  rig->device.kept[1].complete();
  rig->settle();
  auto state = journal->recover(rig->map);
  ASSERT_TRUE(state) << state.error().message();
  std::optional<virtio::DeviceState> captured;
  rig->core->capture([&](Result<virtio::DeviceState> result) { captured = result.value(); });
  rig->settle();
  ASSERT_TRUE(captured);
  state->device = captured->device;
  EXPECT_EQ(*state, *captured);
}

TEST_P(Recovered, StepsOfTheInitialisationAreKnown) {
  for (const std::uint8_t status : {bit::acknowledge, std::uint8_t(bit::acknowledge | bit::driver)}) {
    rig->core->write_status(status);
    EXPECT_EQ(journal->recover(rig->map)->status, status);
    EXPECT_EQ(journal->status().value(), status);
  }
  rig->negotiate();
  auto state = journal->recover(rig->map);
  EXPECT_EQ(state->status, live & ~bit::driver_ok);
  EXPECT_EQ(state->accepted, rig->core->offered());
  rig->core->write_status(0);
  rig->settle();
  state = journal->recover(rig->map);
  EXPECT_EQ(state->status, 0);
  EXPECT_TRUE(state->accepted.empty());
}

TEST_P(Recovered, AResetLeavesNothingInFlight) {
  run();
  driver().chain().readable("gone").writable(8).publish();
  rig->process(0);
  rig->core->write_status(0);
  rig->settle();
  driver().restart();
  driver(1).restart();
  rig->device.kept.clear();
  rig->negotiate();
  for (unsigned queue = 0; queue < 2; ++queue) rig->set_up_queue(queue);
  rig->driver_ok();
  const auto state = journal->recover(rig->map);
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_EQ(state->status, live);
  EXPECT_TRUE(state->queues[0].in_flight.empty());
  EXPECT_EQ(state->queues[0].next_used, 0);
}

TEST_P(Recovered, AQueueThatWasResetHasNothingInFlightAndMayRunAgain) {
  run();
  driver().chain().readable("gone").writable(8).publish();
  rig->process(0);
  rig->core->reset_queue(0);
  rig->settle();
  auto state = journal->recover(rig->map);
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_FALSE(state->queues[0].enabled);
  EXPECT_TRUE(state->queues[1].enabled);
  driver().restart();
  rig->set_up_queue(0);
  driver().chain().readable("again").writable(8).publish();
  rig->process(0);
  state = journal->recover(rig->map);
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_EQ(state->queues[0].in_flight.size(), 1U);
}

TEST_P(Recovered, AStateFromElsewhereIsInTheLogBeforeItRuns) {
  // As after a migration: what was in flight was popped by another process, and this one is killed at once.
  run();
  for (int i = 0; i < 3; ++i) driver().chain().readable("moved").writable(8).publish();
  rig->process(0);
  std::optional<virtio::DeviceState> captured;
  rig->core->capture([&](Result<virtio::DeviceState> result) { captured = result.value(); });
  rig->settle();
  std::filesystem::remove(path);
  auto made = File::create(path, shape);
  ASSERT_TRUE(made);
  dead = std::move(rig);
  journal = std::move(*made);
  rig = make();
  for (const auto& each : dead->drivers) ASSERT_TRUE(rig->map.map(each->mapping()));
  rig->device.on_request = rig->device.keep();
  ASSERT_TRUE(rig->core->restore(*captured));
  const auto state = journal->recover(rig->map);
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_EQ(state->queues[0], captured->queues[0]);
  rig->settle();
  EXPECT_EQ(journal->recover(rig->map)->queues[0], captured->queues[0]);
}

TEST_P(Recovered, ADeviceWhoseOwnStateIsLostIsNotGuessedAt) {
  run();
  kill();
  rig->device.own_state = {std::byte{1}};
  const Status restored = rig->core->restore(*journal->recover(rig->map));
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code(), EINVAL);
  EXPECT_EQ(journal->status().value(), live) << "the log is as it was";
  EXPECT_EQ(rig->core->status(), 0);
}

TEST_P(Recovered, WhereARestoreFailsTheLogIsAsItWas) {
  run();
  driver().chain().readable("x").writable(8).publish();
  rig->process(0);
  kill();
  const auto state = journal->recover(rig->map);
  ASSERT_TRUE(state) << state.error().message();
  const auto before = read_file(path);
  rig->device.on_start = [](unsigned queue, const virtio::QueueState&) {
    return queue == 0 ? Status() : Status(Error(ENOMEM, "no room"));
  };
  EXPECT_EQ(rig->core->restore(*state).error().code(), EIO);
  rig->settle();
  EXPECT_EQ(rig->core->status(), 0);
  EXPECT_EQ(read_file(path), before);
  rig->device.on_start = nullptr;
  EXPECT_TRUE(rig->core->restore(*state));
}

TEST_P(Recovered, ABrokenDeviceIsBrokenStill) {
  run();
  rig->device.host->violation("test", "a violation");
  rig->settle();
  kill();
  const auto state = journal->recover(rig->map);
  ASSERT_TRUE(state) << state.error().message();
  EXPECT_EQ(state->status, live | bit::needs_reset);
  ASSERT_TRUE(rig->core->restore(*state));
  EXPECT_TRUE(rig->needs_reset());
  EXPECT_EQ(journal->status().value(), live | bit::needs_reset);
}

TEST_P(Recovered, ARingThatIsNotThereIsAnErrorThatChangesNothing) {
  run();
  driver().chain().readable("x").writable(8).publish();
  rig->process(0);
  kill();
  const auto before = read_file(path);
  const DeviceRig empty({.packed = GetParam(), .queues = 2});
  memory::AddressMap& nothing = const_cast<memory::AddressMap&>(empty.map);
  const auto state = journal->recover(nothing);
  ASSERT_FALSE(state);
  EXPECT_EQ(state.error().code(), ENXIO);
  EXPECT_EQ(read_file(path), before);
  EXPECT_TRUE(journal->recover(rig->map));
  memory::AddressMap* const own[] = {&rig->map, &rig->map};
  EXPECT_TRUE(journal->recover(nothing, own)) << "each queue may have memory of its own";
}

TEST_P(Recovered, ARingThatDoesNotFitTheLogIsRefused) {
  run();
  for (int i = 0; i < 3; ++i) driver().chain().readable("x").writable(8).publish();
  rig->process(0);
  ASSERT_TRUE(journal->recover(rig->map));
  if (GetParam()) {
    auto first = driver().packed_at(0);
    first.flags = static_cast<std::uint16_t>(virtio::used_bits(true));
    driver().put_packed(0, first);
  } else {
    // The available index goes back behind what was popped.
    driver().set_avail_idx(1);
  }
  const auto state = journal->recover(rig->map);
  ASSERT_FALSE(state);
  EXPECT_EQ(state.error().code(), EBADMSG);
  EXPECT_NE(state.error().message().find("does not fit the ring"), std::string::npos) << state.error().message();
  EXPECT_NE(state.error().message().find("queue 0"), std::string::npos) << state.error().message();
}

TEST_P(Recovered, ALogWhoseByteIsWrongIsRefusedOrSaysTheSame) {
  run();
  for (int i = 0; i < 5; ++i) driver().chain().readable("abc").writable(8).publish();
  rig->process(0);
  rig->device.kept[1].complete();
  rig->device.kept[3].complete();
  rig->settle();
  ASSERT_TRUE(journal->set_transport(bytes_of("something")));
  const auto whole = read_file(path);
  const auto good = recover_from(whole);
  ASSERT_TRUE(good) << good.error().message();
  unsigned refused = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    auto bytes = whole;
    bytes[at] ^= at % 3 == 0 ? std::byte{0xff} : std::byte{1} << at % 8;
    const auto state = recover_from(bytes);
    refused += state ? 0U : 1U;
    // Bytes that nobody reads: the ends of pages, entries that are free.
    if (state) {
      ASSERT_EQ(*state, *good) << "byte " << at;
    }
  }
  EXPECT_GT(refused, 500U);
}

TEST_P(Recovered, ALogOfRubbishEndsInAnErrorOrAStateThatIsChecked) {
  run();
  for (int i = 0; i < 5; ++i) driver().chain().readable("abc").writable(8).publish();
  rig->process(0);
  const auto whole = read_file(path);
  const auto places = layout::places(shape.queue_sizes, shape.config_size, GetParam());
  std::uint64_t random = 88172645463325252U;
  const auto next = [&] {
    random ^= random << 13;
    random ^= random >> 7;
    return random ^= random << 17;
  };
  for (int round = 0; round < 2000; ++round) {
    auto bytes = whole;
    for (std::uint64_t changes = 1 + next() % 8; changes != 0; --changes) {
      const std::size_t at = places.control + next() % (bytes.size() - places.control);
      bytes[at] = static_cast<std::byte>(next());
    }
    if (const auto state = recover_from(bytes)) {
      const auto another = std::make_unique<DeviceRig>(DeviceRig::Setup{.packed = GetParam(), .queues = 2});
      for (const auto& each : rig->drivers) ASSERT_TRUE(another->map.map(each->mapping()));
      another->device.on_request = another->device.keep();
      if (another->core->restore(*state)) another->settle();
    }
  }
}

}  // namespace
}  // namespace outboard::journal
