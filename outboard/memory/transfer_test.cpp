#include <outboard/memory/transfer.hpp>

#include <unistd.h>

#include <algorithm>
#include <deque>
#include <numeric>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/memory/fault_guard.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::memory {
namespace {

constexpr std::uint64_t page = 4096;

/// Memory on the other end of a wire: answers when the test says so, or at once.
struct FakePort final : MemoryPort {
  FakePort(Iova from, std::uint64_t size) : start(from), bytes(size) {}
  void read(Iova address, MutableBytes into, Completion done) override {
    serve(
        into.size(), [this, address, into] { std::copy_n(place(address), into.size(), into.begin()); },
        std::move(done));
  }
  void write(Iova address, Bytes from, Completion done) override {
    serve(from.size(), [this, address, from] { std::ranges::copy(from, place(address)); }, std::move(done));
  }
  std::uint64_t max_transfer() const override { return limit; }

  void serve(std::size_t size, std::function<void()> move, Completion done) {
    sizes.push_back(size);
    if (at_once) {
      move();
      return done({});
    }
    waiting.push_back([move = std::move(move), done = std::move(done)](Status status) mutable {
      if (status) move();
      done(std::move(status));
    });
  }
  void answer(Status status = {}) {
    auto first = std::move(waiting.front());
    waiting.pop_front();
    first(std::move(status));
  }
  std::vector<std::byte>::iterator place(Iova address) {
    return bytes.begin() + static_cast<std::ptrdiff_t>(raw(address) - raw(start));
  }

  Iova start;
  std::vector<std::byte> bytes;
  std::uint64_t limit = UINT64_C(1) << 20;
  bool at_once = false;
  std::vector<std::size_t> sizes;
  std::deque<Completion> waiting;
};

std::vector<std::byte> pattern(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 256);
  return bytes;
}

class TransferTest : public ::testing::Test {
 protected:
  void map_memory(std::uint64_t start, std::shared_ptr<HostMemory> memory, Access access = Access::read_write) {
    const IovaRange range{Iova{start}, memory->size()};
    ASSERT_TRUE(map_.map({.range = range, .access = access, .memory = std::move(memory)}).has_value());
  }
  std::shared_ptr<FakePort> map_port(std::uint64_t start, std::uint64_t size) {
    auto port = std::make_shared<FakePort>(Iova{start}, size);
    EXPECT_TRUE(map_.map({.range = {Iova{start}, size}, .port = port}).has_value());
    return port;
  }
  TransferCompletion keep() {
    return [this](Status status) {
      EXPECT_FALSE(answer_.has_value()) << "answered twice";
      answer_ = status ? 0 : status.error().code();
    };
  }
  void read(std::uint64_t start, MutableBytes into) {
    answer_.reset();
    read_memory(map_.current(), {Iova{start}, into.size()}, into, keep());
  }
  void write(std::uint64_t start, Bytes from) {
    answer_.reset();
    write_memory(map_.current(), {Iova{start}, from.size()}, from, keep());
  }

  testing::ManualLoop loop_;
  AddressMap map_{loop_};
  std::optional<int> answer_;
};

TEST_F(TransferTest, MappedMemoryIsCopiedBeforeTheCallReturns) {
  const auto first = *HostMemory::anonymous(page);
  const auto second = *HostMemory::anonymous(page);
  map_memory(0x1000, first);
  map_memory(0x2000, second);
  const auto sent = pattern(page);
  write(0x1800, sent);
  EXPECT_EQ(answer_, 0);
  EXPECT_TRUE(std::equal(sent.begin(), sent.begin() + 0x800, first->data() + 0x800));
  std::vector<std::byte> got(page);
  read(0x1800, got);
  EXPECT_EQ(answer_, 0);
  EXPECT_EQ(got, sent);
}

TEST_F(TransferTest, AWriteLogIsToldOfWhatIsWrittenAndByMessagesToo) {
  struct Noted final : WriteLog {
    void written(IovaRange range) override { ranges.push_back(range); }
    std::vector<IovaRange> ranges;
  } log;
  map_memory(0x1000, *HostMemory::anonymous(page));
  const auto port = map_port(0x2000, page);
  map_.set_write_log(&log);
  std::vector<std::byte> got(page);
  read(0x1800, got);
  port->answer();
  EXPECT_TRUE(log.ranges.empty());

  write(0x1800, pattern(page));
  EXPECT_EQ(log.ranges, (std::vector<IovaRange>{{Iova{0x1800}, 0x800}}));
  port->answer(Error(EIO));
  EXPECT_EQ(answer_, EIO);
  EXPECT_EQ(log.ranges.back(), (IovaRange{Iova{0x2000}, 0x800})) << "some of it may have been written";
}

TEST_F(TransferTest, NoBytesAreWellTransferred) {
  read(0x1000, {});
  EXPECT_EQ(answer_, 0);
}

TEST_F(TransferTest, SizesHaveToAgree) {
  std::vector<std::byte> bytes(8);
  read_memory(map_.current(), {Iova{0}, 9}, bytes, keep());
  EXPECT_EQ(answer_, EINVAL);
}

TEST_F(TransferTest, HoleAndPermissionShowBeforeAnythingIsCopied) {
  const auto memory = *HostMemory::anonymous(page);
  map_memory(0x1000, memory);
  map_memory(0x2000, *HostMemory::anonymous(page), Access::read);
  const auto sent = pattern(2 * page);
  write(0x1000, sent);
  EXPECT_EQ(answer_, EPERM);
  write(0x0800, sent);
  EXPECT_EQ(answer_, EFAULT);
  EXPECT_EQ(memory->data()[1], std::byte{0});
  write(UINT64_MAX - 100, sent);
  EXPECT_EQ(answer_, EFAULT);
}

TEST_F(TransferTest, RemotePartGoesInMessagesOfAtMost64KiB) {
  const auto port = map_port(0x10000, 300 << 10);
  const auto sent = pattern(150 << 10);
  write(0x10000, sent);
  while (!answer_) {
    ASSERT_EQ(port->waiting.size(), 1U) << "one message at a time";
    port->answer();
  }
  EXPECT_EQ(answer_, 0);
  EXPECT_EQ(port->sizes, (std::vector<std::size_t>{64 << 10, 64 << 10, 22 << 10}));
  EXPECT_TRUE(std::ranges::equal(sent, std::span(port->bytes).first(sent.size())));
}

TEST_F(TransferTest, PortThatTakesLessIsAskedForLess) {
  const auto port = map_port(0x10000, page);
  port->limit = 1000;
  port->at_once = true;
  std::vector<std::byte> got(2500);
  read(0x10000, got);
  EXPECT_EQ(answer_, 0);
  EXPECT_EQ(port->sizes, (std::vector<std::size_t>{1000, 1000, 500}));
}

TEST_F(TransferTest, PortThatTakesNothingFailsTheTransfer) {
  map_port(0x10000, page)->limit = 0;
  std::vector<std::byte> got(8);
  read(0x10000, got);
  EXPECT_EQ(answer_, EIO);
}

TEST_F(TransferTest, PortThatAnswersAtOnceIsNoRecursion) {
  const auto port = map_port(0x10000, 1 << 20);
  port->at_once = true;
  port->limit = 1;  // a million messages: on the stack they would not fit
  port->bytes = pattern(1 << 20);
  std::vector<std::byte> got(1 << 20);
  read(0x10000, got);
  EXPECT_EQ(answer_, 0);
  EXPECT_EQ(got, port->bytes);
}

TEST_F(TransferTest, PortThatAnsweredAtOnceMayTakeItsTimeAfterwards) {
  const auto port = map_port(0x1000, 3 * page);
  port->limit = page;
  port->bytes = pattern(3 * page);
  const auto other = map_port(0x4000, 2 * page);
  other->limit = page;
  other->bytes = pattern(2 * page);
  port->at_once = true;
  std::vector<std::byte> got(5 * page);
  read(0x1000, got);
  EXPECT_FALSE(answer_.has_value()) << "the answer to one piece is not that to the next";
  EXPECT_EQ(other->waiting.size(), 1U);
  other->answer();
  ASSERT_EQ(other->waiting.size(), 1U);
  other->answer();
  EXPECT_EQ(answer_, 0);
  EXPECT_TRUE(std::equal(port->bytes.begin(), port->bytes.end(), got.begin()));
  EXPECT_TRUE(std::equal(other->bytes.begin(), other->bytes.end(), got.begin() + 3 * page));
}

TEST_F(TransferTest, MappedAndRemotePartsMayAlternate) {
  const auto before = *HostMemory::anonymous(page);
  const auto after = *HostMemory::anonymous(page);
  map_memory(0x1000, before);
  const auto port = map_port(0x2000, page);
  map_memory(0x3000, after);
  const auto sent = pattern(2 * page);
  write(0x1800, sent);
  EXPECT_FALSE(answer_.has_value());
  EXPECT_EQ(after->data()[0x7ff], sent.back()) << "mapped memory is written at once: later it may be unmapped";
  port->answer();
  EXPECT_EQ(answer_, 0);
  std::vector<std::byte> got(2 * page);
  read(0x1800, got);
  port->answer();
  EXPECT_EQ(got, sent);
}

TEST_F(TransferTest, WhatThePortSaysEndsTheTransfer) {
  const auto port = map_port(0x10000, 300 << 10);
  std::vector<std::byte> got(200 << 10);
  read(0x10000, got);
  port->answer();
  port->answer(Error(ECONNRESET, "gone"));
  EXPECT_EQ(answer_, ECONNRESET);
  EXPECT_TRUE(port->waiting.empty());
}

TEST_F(TransferTest, UnmapMeanwhileDoesNoHarm) {
  auto port = map_port(0x10000, 300 << 10);
  std::vector<std::byte> got(100 << 10);
  read(0x10000, got);
  map_.clear([](Status) {});
  port->answer();
  port->answer();
  EXPECT_EQ(answer_, 0);
}

TEST_F(TransferTest, VU35_TransferFromATruncatedFileFailsAndOthersGoOn) {
  ASSERT_TRUE(install_fault_guard().has_value());
  const UniqueFd fd = testing::make_memfd(2 * page);
  map_memory(0x1000, *HostMemory::map_file(fd, 0, 2 * page, Access::read_write));
  map_memory(0x8000, *HostMemory::anonymous(page));
  ASSERT_EQ(::ftruncate(fd.get(), page), 0);
  std::vector<std::byte> got(page);
  read(0x1000, got);
  EXPECT_EQ(answer_, 0) << "this page is still there";
  read(0x2000, got);
  EXPECT_EQ(answer_, EFAULT);
  read(0x1000, got);
  EXPECT_EQ(answer_, 0) << "what lies before the lost page is the client's still";
  write(0x2000, got);
  EXPECT_EQ(answer_, EFAULT);
  read(0x8000, got);
  EXPECT_EQ(answer_, 0);
}

}  // namespace
}  // namespace outboard::memory
