// A block device in the hands of a test: its storage, the driver's end of its queues, and requests element by element.

#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/devices/blk/device.hpp>
#include <outboard/storage/raw_file.hpp>
#include <outboard/testing/loopback_transport.hpp>
#include <outboard/virtio/driver_queue.hpp>
#include <outboard/virtio/spec.hpp>
#include <tests/support/faulty_engine.hpp>
#include <tests/support/held_backend.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::blk {

using testing::HeldBackend;
using testing::LoopbackTransport;
using testing::ManualLoop;
using Call = HeldBackend::Call;
using ByteVector = std::vector<std::byte>;

inline constexpr std::uint64_t disk_size = 1 << 20;
inline constexpr std::uint64_t disk_sectors = disk_size / sector_size;
inline constexpr std::byte untouched{0xee};

struct Answer {
  bool used = false;
  std::uint32_t length = 0;
  ByteVector writable;  ///< all of it, the status included

  int status() const { return writable.empty() ? -1 : std::to_integer<int>(writable.back()); }
  ByteVector data() const { return {writable.begin(), writable.end() - 1}; }
};

inline ByteVector pattern(std::size_t size, unsigned first = 1) {
  ByteVector bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(first + i * 7 + i / 256);
  return bytes;
}

inline ByteVector segment(std::uint64_t sector, std::uint32_t count, std::uint32_t flags = 0) {
  const spec::RangeSegment segment{sector, count, flags};
  const Bytes bytes = as_bytes_of(segment);
  return {bytes.begin(), bytes.end()};
}

inline ByteVector operator+(ByteVector a, const ByteVector& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A device on a disk in the test's hands, and the driver's end of its queues.
class Rig {
 public:
  struct Setup {
    bool packed = false;
    bool difficult =
        false;  ///< below the disk is an image whose engine is interrupted, ends short, late and out of order
    bool read_only = false;
    bool refuse_flush = false;  ///< the driver does not accept FLUSH
    bool refuse_wce = true;  ///< ... CONFIG_WCE
    bool refuse_ranges = false;
    bool poll = false;  ///< the device polls its queues
    bool own_loop = false;  ///< the first queue has a loop of its own
    Device::Options device{};
    std::function<void(HeldBackend&)> backend = [](HeldBackend&) {};
  };

  explicit Rig(const Setup& setup) {
    auto backend = std::make_unique<HeldBackend>(disk_size);
    disk = backend.get();
    disk->shape.read_only = setup.read_only;
    setup.backend(*disk);
    disk->bytes = pattern(disk_size);
    if (setup.difficult) disk->below = image();
    device = Device::create(std::move(backend), setup.device).value();
    LoopbackTransport::Options options{.packed = setup.packed, .poll = setup.poll};
    options.log = Log([this](Level, std::string_view line) { lines.emplace_back(line); });
    if (setup.own_loop) options.queue_loops = {&queue_loop};
    transport.emplace(*device, loop, options);
    virtio::Features features = transport->core().offered();
    if (setup.refuse_flush) features.clear(feature::flush);
    if (setup.refuse_wce) features.clear(feature::config_wce);
    if (setup.refuse_ranges) features = features.without(feature::discard).without(feature::write_zeroes);
    const auto agreed = virtio::negotiate(*transport, features);
    EXPECT_TRUE(agreed) << agreed.error().message();
    for (unsigned i = 0; i < setup.device.queues; ++i)
      queues.push_back(virtio::DriverQueue::create(*transport, i, *agreed, {}).value());
    arena = transport->dma().allocate(4 << 20).value();
    EXPECT_TRUE(virtio::start_device(*transport));
  }

  void pump() { transport->pump(); }
  /// What lies on the disk.
  ByteVector on_disk(std::size_t offset, std::size_t size) const {
    const auto first = disk->bytes.begin() + static_cast<std::ptrdiff_t>(offset);
    ByteVector bytes(first, first + static_cast<std::ptrdiff_t>(size));
    if (!disk->below) return bytes;
    const UniqueFd file(::open(dir_.path("disk.raw").c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(::pread(file.get(), bytes.data(), size, static_cast<off_t>(offset)), static_cast<ssize_t>(size));
    return bytes;
  }
  bool needs_reset() { return (transport->core().status() & virtio::spec::status::needs_reset) != 0; }
  template <typename T>
  T config(std::uint32_t offset) {
    T value{};
    EXPECT_TRUE(transport->read_config(offset, as_writable_bytes_of(value)));
    return value;
  }

  virtio::Element place(std::size_t size, std::byte fill = untouched) {
    if (at_ + size > arena.size()) at_ = 0;
    std::fill_n(arena.data() + at_, size, fill);
    const virtio::Element element{arena.iova() + at_, static_cast<std::uint32_t>(size)};
    at_ += size;
    return element;
  }
  std::byte* host(const virtio::Element& element) { return arena.data() + (raw(element.address) - raw(arena.iova())); }

 private:
  testing::TempDir dir_;
  testing::FaultyStorage faulty_;

 public:
  std::vector<std::string> lines;  ///< of the log
  ManualLoop loop, queue_loop;
  HeldBackend* disk = nullptr;
  std::unique_ptr<Device> device;
  std::optional<LoopbackTransport> transport;
  std::vector<virtio::DriverQueue> queues;
  memory::DmaBuffer arena;

 private:
  std::unique_ptr<storage::Backend> image() {
    const UniqueFd file = dir_.make_file("disk.raw", disk_size);
    EXPECT_EQ(::pwrite(file.get(), disk->bytes.data(), disk_size, 0), static_cast<ssize_t>(disk_size));
    faulty_.be_difficult(1);
    return storage::RawFile::open(loop, {.path = dir_.path("disk.raw"), .make_engine = faulty_.factory()}, Log())
        .value();
  }

  std::size_t at_ = 0;
};

/// A request, element by element.
class Chain {
 public:
  explicit Chain(Rig& rig, unsigned queue = 0) : rig_(rig), queue_(queue) {}
  static Chain of(Rig& rig, std::uint32_t type, std::uint64_t sector) { return Chain(rig).header(type, sector); }

  Chain& header(std::uint32_t type, std::uint64_t sector) {
    const spec::RequestHeader header{type, 0, sector};
    const Bytes bytes = as_bytes_of(header);
    return readable({bytes.begin(), bytes.end()});
  }
  Chain& readable(const ByteVector& bytes) {
    const auto element = rig_.place(bytes.size());
    std::ranges::copy(bytes, rig_.host(element));
    readable_.push_back(element);
    return *this;
  }
  Chain& writable(std::size_t size) {
    writable_.push_back(rig_.place(size));
    return *this;
  }
  void add() { EXPECT_TRUE(rig_.queues[queue_].add(readable_, writable_, this)); }
  Chain& send() {
    add();
    rig_.queues[queue_].publish();
    rig_.pump();
    return *this;
  }
  /// What the device has made of it.
  Answer answer() {
    Answer answer;
    const auto used = rig_.queues[queue_].next_used();
    EXPECT_TRUE(used);
    if (used && *used) answer = {true, (*used)->length, {}};
    for (const auto& element : writable_)
      answer.writable.insert(answer.writable.end(), rig_.host(element), rig_.host(element) + element.length);
    return answer;
  }
  Answer run() { return send().answer(); }

 private:
  Rig& rig_;
  unsigned queue_;
  std::vector<virtio::Element> readable_, writable_;
};

struct On {
  bool packed;
  bool difficult;
};

/// On a split and on a packed ring, on storage that does as it is told and on a difficult one.
class BlkDevice : public ::testing::TestWithParam<On> {
 protected:
  Rig::Setup setup() const { return {.packed = GetParam().packed, .difficult = GetParam().difficult}; }
};

inline void expect_failed(const Answer& answer, int status) {
  EXPECT_TRUE(answer.used);
  EXPECT_EQ(answer.status(), status);
  EXPECT_EQ(answer.length, answer.writable.size()) << "the used length must cover the status";
  EXPECT_THAT(answer.data(), ::testing::Each(std::byte{0})) << "and so the data, which must not be left as they were";
}

}  // namespace outboard::blk
