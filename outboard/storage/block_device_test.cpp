// Disks whose blocks are larger than a sector.

#include <optional>
#include <string>
#include <vector>

#include <sys/uio.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/storage/raw_file.hpp>
#include <tests/support/loop_device.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

using outboard::testing::LoopDevice;
using ::testing::HasSubstr;

constexpr std::uint64_t disk_size = UINT64_C(16) << 20;

TEST(ADiskOf4096ByteBlocks, TakesRangesOfSectorsAndLosesNoWayOfDoingThemByIt) {
  const outboard::testing::TempDir dir;
  const UniqueFd file = dir.make_file("disk.raw", disk_size);
  const std::vector<char> old(disk_size, 'o');
  ASSERT_EQ(::pwrite(file.get(), old.data(), old.size(), 0), static_cast<ssize_t>(old.size()));
  auto device = LoopDevice::attach(dir.path("disk.raw"), 4096);
  if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
  for (const Engine engine : {Engine::io_uring, Engine::pool}) {
    auto loop = Reactor::create().value();
    auto disk = RawFile::open(*loop, {.path = device->path, .engine = engine}, Log()).value();
    EXPECT_EQ(disk->geometry().logical_block, 4096U);
    EXPECT_TRUE(disk->geometry().can_discard);
    const auto run = [&](auto&& start) {
      std::optional<int> result;
      start([&result](int error) { result = error; });
      disk->submit();
      while (!result && loop->run_once(std::chrono::seconds(1))) {
      }
      return result.value_or(-1);
    };
    const auto read = [&](std::uint64_t offset, std::size_t size) {
      std::string bytes(size, '?');
      const iovec piece{bytes.data(), bytes.size()};
      EXPECT_EQ(run([&](auto done) { disk->read(offset, std::span(&piece, 1), done); }), 0);
      return bytes;
    };
    EXPECT_EQ(run([&](auto done) { disk->discard(512, 512, done); }), 0) << "no whole block: nothing to do";
    EXPECT_EQ(run([&](auto done) { disk->discard(512, 4096, done); }), 0);
    EXPECT_EQ(read(0, 8192), std::string(8192, 'o'));
    for (const bool may_unmap : {false, true}) {
      const std::uint64_t at = (may_unmap ? 1 << 20 : 2 << 20) + 512;
      EXPECT_EQ(run([&](auto done) { disk->write_zeroes(at, 16384, may_unmap, done); }), 0);
      EXPECT_EQ(read(at - 512, 17408), std::string(512, 'o') + std::string(16384, '\0') + std::string(512, 'o'));
    }
    EXPECT_EQ(run([&](auto done) { disk->discard((4 << 20) + 512, 65536, done); }), 0);
    EXPECT_EQ(read(4 << 20, 4096), std::string(4096, 'o'));
    EXPECT_EQ(read((4 << 20) + 4096, 61440), std::string(61440, '\0')) << "discards still reach the disk";
    const iovec all{const_cast<char*>(old.data()), 8 << 20};
    ASSERT_EQ(run([&](auto done) { disk->write(0, std::span(&all, 1), done); }), 0);
  }
}

TEST(ADiskOf4096ByteBlocks, KeepsEverySectorThatQueuesWriteAtOnceByODirect) {
  const outboard::testing::TempDir dir;
  static_cast<void>(dir.make_file("disk.raw", disk_size));
  auto device = LoopDevice::attach(dir.path("disk.raw"), 4096);
  if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
  constexpr std::size_t sectors = 512;
  for (const Engine engine : {Engine::io_uring, Engine::pool}) {
    auto loop = Reactor::create().value();
    auto disk = RawFile::open(*loop, {.path = device->path, .direct = true, .engine = engine}, Log()).value();
    ASSERT_THAT(disk->description(), HasSubstr("O_DIRECT"));
    auto other = disk->share(*loop).value();
    for (unsigned round = 0; round < 20; ++round) {
      std::string bytes;
      for (std::size_t i = 0; i < sectors; ++i)
        bytes += std::string(512, static_cast<char>('A' + (i * 7 + round) % 57));
      std::size_t ended = 0;
      std::vector<iovec> pieces;
      for (std::size_t i = 0; i < sectors; ++i) pieces.push_back({bytes.data() + i * 512, 512});
      for (std::size_t i = 0; i < sectors; ++i) {
        Backend& queue = i % 2 == 0 ? *disk : *other;
        queue.write(i * 512, std::span(&pieces[i], 1), [&ended](int error) { ended += error == 0 ? 1U : 0U; });
      }
      disk->submit();
      other->submit();
      while (ended != sectors) ASSERT_TRUE(loop->run_once(std::chrono::seconds(10)));
      std::string back(bytes.size(), '?');
      const iovec all{back.data(), back.size()};
      std::optional<int> result;
      disk->read(0, std::span(&all, 1), [&result](int error) { result = error; });
      disk->submit();
      while (!result) ASSERT_TRUE(loop->run_once(std::chrono::seconds(10)));
      ASSERT_EQ(*result, 0);
      ASSERT_TRUE(back == bytes) << "round " << round;
    }
  }
}

}  // namespace
}  // namespace outboard::storage
