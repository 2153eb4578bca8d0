// A file on a disk that takes its time. Its file system keeps locks, and reads where the file lies, while it waits for the disk: no call
// of a back end may wait for any of that.

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/storage/slow_rig_test.hpp>
#include <tests/support/disk_file_system.hpp>

namespace outboard::storage {
namespace {

using outboard::testing::DiskFileSystem;

constexpr std::uint64_t mebibyte = UINT64_C(1) << 20;
constexpr std::uint64_t disk_size = 64 * mebibyte;
constexpr std::size_t page = 4096;

/// The image: of its first part every second page is written, so that the file system needs many blocks to tell where they lie; its
/// second part lies in one piece.
constexpr std::uint64_t scattered = 16 * mebibyte;
constexpr std::uint64_t image_size = 24 * mebibyte;

struct FileKind {
  const char* name;
  const char* file_system;
  bool direct;
};

class SlowFileSystem : public OnSlowStorage<FileKind> {
 protected:
  void SetUp() override {
    make_device(disk_size, LoopDevice::Through::o_direct);
    if (IsSkipped()) return;
    auto files = DiskFileSystem::create(GetParam().file_system, device_.path);
    if (!files && (files.error().code() == ENOENT || files.error().code() == ENODEV || files.error().code() == EPERM))
      GTEST_SKIP() << files.error().message();
    ASSERT_TRUE(files) << files.error().message();
    files_ = std::make_unique<DiskFileSystem>(std::move(*files));
    ASSERT_NO_FATAL_FAILURE(write_image());
    const auto forgotten = files_->forget();
    ASSERT_TRUE(forgotten) << forgotten.error().message();
    open({.path = files_->path("disk.raw"), .direct = GetParam().direct, .engine = Engine::io_uring});
  }
  void TearDown() override {
    OnSlowStorage::TearDown();
    files_.reset();
    let_device_go();
  }

  void write_image() {
    const UniqueFd file(::open(files_->path("disk.raw").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(file);
    const auto write = [&](std::uint64_t at, std::size_t size) {
      ASSERT_EQ(::pwrite(file.get(), bytes_.data(), size, static_cast<off_t>(at)), static_cast<ssize_t>(size));
    };
    for (std::uint64_t at = scattered; at < image_size; at += bytes_.size()) write(at, bytes_.size());
    for (std::uint64_t at = 0; at < scattered; at += 2 * page) write(at, page);
    ASSERT_EQ(::fsync(file.get()), 0);
  }
  /// Has the kernel read a part of the image, and learn that it is read in order.
  void read_before(std::uint64_t at) {
    const UniqueFd file(::open(files_->path("disk.raw").c_str(), O_RDONLY | O_CLOEXEC));
    for (int i = 0; i < 2; ++i, at += window)
      ASSERT_EQ(::pread(file.get(), bytes_.data(), window, static_cast<off_t>(at)), static_cast<ssize_t>(window));
  }
  static constexpr std::size_t window = 16 * page;

  void read(std::uint64_t at) { disk_->read(at, std::span(&whole_, 1), done()), turn(); }
  void write(std::uint64_t at) { disk_->write(at, std::span(&whole_, 1), done()), turn(); }
  void write_a_part(std::uint64_t at) { disk_->write(at, std::span(&part_, 1), done()), turn(); }
  void wait_until_held() {
    while (storage_->holding() == 0 && ended_ != begun_ && !storage_->gave_up()) turn();
  }
  void expect_not_to_have_waited() {
    wait_until_held();
    EXPECT_FALSE(storage_->gave_up());
    storage_->release();
    wait_until_all_has_ended();
  }

  std::unique_ptr<DiskFileSystem> files_;
  alignas(page) std::array<char, mebibyte> bytes_{};
  iovec whole_{bytes_.data(), page};
  iovec part_{bytes_.data(), 512};
};

TEST_P(SlowFileSystem, ThatReadsWhereTheFileLiesKeepsNothingElseWaiting) {
  storage_->hold(Call::read);
  for (std::uint64_t at = mebibyte; at < scattered; at += mebibyte) {
    read(at);
    write(at + mebibyte / 2);
  }
  expect_not_to_have_waited();
}

TEST_P(SlowFileSystem, ThatReadsWhatAWriteIsAPartOfKeepsNothingElseWaiting) {
  read_before(scattered);
  storage_->hold(Call::read);
  write_a_part(scattered + 4 * mebibyte);
  wait_until_held();
  for (std::uint64_t i = 0; i < 2 * window / page; ++i) {
    read(scattered + i * page);
    write(scattered + 2 * mebibyte + i * page);
    write_a_part(scattered + 6 * mebibyte + i * page);
  }
  expect_not_to_have_waited();
}

TEST_P(SlowFileSystem, ThatDiscardsWhatItIsWritingKeepsNothingElseWaiting) {
  constexpr std::uint64_t written = scattered + 4 * mebibyte;
  read_before(scattered);
  write(written);
  wait_until_all_has_ended();
  storage_->hold(Call::write);
  disk_->flush(done()), turn();
  wait_until_held();
  disk_->discard(written, window, done()), turn();
  for (std::uint64_t i = 0; i < 4 * window / page; ++i) read(scattered + i * page);
  write(scattered + 2 * mebibyte);
  expect_not_to_have_waited();
}

TEST_P(SlowFileSystem, ThatReadsAheadKeepsNoReadWaitingForRoomInTheQueue) {
  set_queue_depth(4);
  if (IsSkipped()) return;
  constexpr std::uint64_t streams = 8, stride = mebibyte / 2;
  for (std::uint64_t i = 0; i < streams; ++i) read_before(scattered + i * stride);
  storage_->hold(Call::read);
  for (std::uint64_t i = 0; i < streams; ++i) {
    for (std::uint64_t at = 0; at < 3 * window; at += page) {
      disk_->read(scattered + i * stride + at, std::span(&whole_, 1), done());
      disk_->submit();
    }
    turn();
  }
  expect_not_to_have_waited();
}

INSTANTIATE_TEST_SUITE_P(Storage, SlowFileSystem,
                         ::testing::Values(FileKind{"ext4", "ext4", false}, FileKind{"ext4_direct", "ext4", true},
                                           FileKind{"xfs", "xfs", false}),
                         [](const auto& kind) { return std::string(kind.param.name); });

}  // namespace
}  // namespace outboard::storage
