// DriverQueue and DeviceQueue against each other, and both against a small model that knows nothing of rings: which buffer
// was made available, what it asks for, what is to be answered. Schedules are random, from seeds that a failure prints.
//
// What must hold: each buffer comes to the device once (again only after a stop, and marked as such), and back to the
// driver exactly once, with the right length and bytes and not one byte more written; in order where that was agreed; and
// no wake-up is lost: once nothing moves any more, nothing is left to do. The driver looks at its ring only when it is
// awake, and it is woken by interrupts only.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <set>

#include <outboard/memory/address_map.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/testing/plain_dma.hpp>
#include <outboard/virtio/device_core.hpp>
#include <outboard/virtio/driver_queue.hpp>
#include <outboard/virtio/spec.hpp>
#include <tests/support/core_transport.hpp>

namespace outboard::virtio {
namespace {

struct Config {
  bool packed = false;
  bool event_idx = false;
  bool in_order = false;
  bool indirect = false;
  std::uint16_t size = 4;
  bool faults = false;  ///< memory goes away, bus mastering stops, queues stop and start again

  Features wanted() const {
    Features features;
    if (packed) features.set(Feature::ring_packed);
    if (event_idx) features.set(Feature::event_idx);
    if (in_order) features.set(Feature::in_order);
    if (indirect) features.set(Feature::indirect_desc);
    return features;
  }
  std::string name() const {
    return std::string(packed ? "Packed" : "Split") + std::to_string(size) + (event_idx ? "EventIdx" : "") +
           (in_order ? "InOrder" : "") + (indirect ? "Indirect" : "") + (faults ? "Faults" : "");
  }
};

constexpr std::byte untouched{0xee};
std::byte sent_byte(std::uint32_t number, std::size_t at) { return static_cast<std::byte>(number * 31 + at); }
std::byte answer_byte(std::uint32_t number, std::size_t at) { return static_cast<std::byte>(number * 17 + at * 3 + 1); }

/// A buffer, as the model knows it.
struct Record {
  std::vector<std::byte> readable;
  std::vector<std::byte*> writable;  ///< where each byte is
  std::size_t written = 0;  ///< how many of them the device is to write
  std::size_t slot = 0;
  bool available = false, delivered = false, answered = false;
};

class World final : private TransportEvents, private Device {
 public:
  World(const Config& config, std::uint64_t seed) : config_(config), rng_(seed) {
    data_ = dma_.allocate(slots * slot_size).value();
    for (std::size_t slot = 0; slot < slots; ++slot) free_slots_.push_back(slot);
    const Log log([this](Level, std::string_view line) { said_ += std::string(line) + '\n'; });
    core_ = DeviceCore::create(*this, map_, loop_, *this,
                               {.packed = config.packed, .in_order = config.in_order, .log = log})
                .value();
    transport_.emplace(*core_, loop_, dma_);
    const Features agreed = negotiate(*transport_, config.wanted()).value();
    queue_ = DriverQueue::create(*transport_, 0, agreed, {.size = config.size, .max_elements = 8, .direct_elements = 2})
                 .value();
    for (const auto& mapping : dma_.mappings()) {
      EXPECT_TRUE(map_.map(mapping));
      mappings_.push_back(mapping);
    }
    EXPECT_TRUE(start_device(*transport_));
    EXPECT_EQ(queue_->size(), config.size);
  }
  ~World() override {
    kept_.clear();
    EXPECT_TRUE(transport_->reset());
  }

  void run(unsigned steps) {
    for (unsigned i = 0; i < steps && !::testing::Test::HasFailure(); ++i) step();
  }

  /// Lets everything come to rest, without a look at the ring that nobody asked for.
  void finish() {
    repair();
    for (bool moved = true; moved && !::testing::Test::HasFailure();) {
      moved = loop_.run_until_idle();
      if (!kept_.empty()) {
        answer(rng_() % kept_.size());
        moved = true;
      }
      moved |= publish();
      moved |= drive();
    }
    EXPECT_EQ(queue_->in_flight(), 0) << (asleep_ ? "a wake-up was lost" : "buffers were lost");
    EXPECT_EQ(records_.size(), 0U);
    EXPECT_FALSE(queue_->broken());
    EXPECT_FALSE(core_->broken());
  }
  /// A device reset instead: whatever is in flight is the driver's again.
  void give_up() {
    repair();
    EXPECT_TRUE(transport_->reset());
    std::set<std::uint32_t> cookies, expected;
    for (void* cookie : queue_->take_in_flight()) cookies.insert(number_of(cookie));
    for (const auto& [number, record] : records_) expected.insert(number);
    EXPECT_EQ(cookies, expected);
    EXPECT_TRUE(kept_.empty());
  }
  std::uint32_t total() const { return next_number_; }

 private:
  static constexpr std::size_t slots = 24, slot_size = 256;

  bool chance(unsigned percent) { return rng_() % 100 < percent; }
  std::size_t below(std::size_t bound) { return bound == 0 ? 0 : rng_() % bound; }
  static std::uint32_t number_of(void* cookie) {
    return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(cookie));
  }

  void step() {
    switch (below(config_.faults ? 14 : 8)) {
      case 0:
      case 1:
        return add();
      case 2:
        publish();
        return;
      case 3:
        loop_.run_once();
        return;
      case 4:
        loop_.run_until_idle();
        return;
      case 5:
      case 6:
        drive();
        return;
      case 7:
        if (!kept_.empty()) answer(below(kept_.size()));
        return;
      case 8:
      case 9:
        return toggle_memory();
      case 10:
        return toggle_pause();
      case 11:
        return toggle_running();
      case 12:
        return repair();
      case 13:
        core_->kick(0);
        return;  // for nothing
    }
  }

  // The driver.

  /// Cuts `bytes` bytes from `offset` of a slot on into `count` elements.
  std::vector<Element> cut(std::size_t slot, std::size_t offset, std::size_t bytes, std::size_t count) {
    std::vector<Element> elements;
    for (; count > 0; --count) {
      const std::size_t size = count == 1 ? bytes : 1 + below(bytes - count + 1);
      elements.push_back({data_.iova() + slot * slot_size + offset, static_cast<std::uint32_t>(size)});
      offset += size + 1;  // a gap, which must stay as it is
      bytes -= size;
    }
    return elements;
  }

  void add() {
    if (free_slots_.empty()) return;
    const std::size_t in = 1 + below(std::min<std::size_t>(config_.size, 3));
    const std::size_t out = below(std::min<std::size_t>(config_.size - in, 3) + 1);
    const std::uint32_t number = next_number_;
    const std::size_t slot = free_slots_.back();
    std::memset(data_.data() + slot * slot_size, static_cast<int>(untouched), slot_size);
    Record record{.slot = slot};

    const auto readable = cut(slot, 0, 4 + below(60), in);
    for (const Element& element : readable) {
      for (std::uint32_t i = 0; i < element.length; ++i) {
        const std::size_t at = record.readable.size();
        const std::byte byte = at < 4 ? static_cast<std::byte>(number >> (8 * at)) : sent_byte(number, at);
        record.readable.push_back(byte);
        *host(element, i) = byte;
      }
    }
    const auto writable = out == 0 ? std::vector<Element>() : cut(slot, slot_size / 2, out + below(60), out);
    for (const Element& element : writable)
      for (std::uint32_t i = 0; i < element.length; ++i) record.writable.push_back(host(element, i));
    record.written = chance(50) ? record.writable.size() : below(record.writable.size() + 1);

    const bool room = queue_->has_room(in + out);
    const Status added = queue_->add(readable, writable, reinterpret_cast<void*>(std::uintptr_t{number}));
    EXPECT_EQ(added.has_value(), room);
    if (!added) return;
    ++next_number_;
    free_slots_.pop_back();
    records_.emplace(number, std::move(record));
    unpublished_.push_back(number);
  }
  std::byte* host(const Element& element, std::uint32_t at) const {
    return data_.data() + (memory::raw(element.address) - memory::raw(data_.iova())) + at;
  }

  bool publish() {
    if (unpublished_.empty()) return false;
    for (const std::uint32_t number : unpublished_) records_.at(number).available = true;
    unpublished_.clear();
    queue_->publish();
    return true;
  }

  /// The driver's thread has a turn: takes some of what is used, and perhaps goes to sleep.
  bool drive() {
    if (asleep_) {
      if (!interrupt_) return false;
      asleep_ = false;
      if (chance(50)) queue_->disable_interrupts();
    }
    interrupt_ = false;
    bool moved = false;
    while (!chance(10)) {
      const auto used = queue_->next_used();
      if (!used) {
        ADD_FAILURE() << used.error().message();
        return false;
      }
      if (!*used) {
        // Between the last look and the request for interrupts: here a wake-up could be lost.
        if (!meddling_ && chance(30)) loop_.run_once();
        asleep_ = !queue_->enable_interrupts();
        return moved || !asleep_;
      }
      take_used_buffer(**used);
      moved = true;
    }
    return true;
  }

  void take_used_buffer(const DriverQueue::Used& used) {
    const std::uint32_t number = number_of(used.cookie);
    const auto found = records_.find(number);
    ASSERT_NE(found, records_.end()) << "came back twice: " << number;
    const Record& record = found->second;
    EXPECT_TRUE(record.answered) << number;
    EXPECT_EQ(used.length, record.written) << number;
    if (config_.in_order) {
      EXPECT_EQ(number, records_.begin()->first) << "out of order";
    }
    check_bytes(number, record);
    free_slots_.push_back(record.slot);
    records_.erase(found);
  }
  void check_bytes(std::uint32_t number, const Record& record) const {
    std::vector<std::byte> expected(slot_size / 2, untouched);
    const std::byte* half = data_.data() + record.slot * slot_size + slot_size / 2;
    for (std::size_t i = 0; i < record.written; ++i)
      expected[static_cast<std::size_t>(record.writable[i] - half)] = answer_byte(number, i);
    EXPECT_EQ(std::memcmp(half, expected.data(), expected.size()), 0) << "wrong bytes in the answer to " << number;
  }

  // The device.

  Identity identity() const override { return {.device_id = 63, .queue_sizes = {16}}; }

  void handle(Request request) override {
    const auto word = request.read<le32>();
    ASSERT_TRUE(word) << word.error().message();
    const auto found = records_.find(*word);
    ASSERT_NE(found, records_.end()) << *word;
    Record& record = found->second;
    EXPECT_TRUE(record.available) << *word;
    EXPECT_EQ(request.replayed(), record.delivered) << *word;
    if (config_.in_order && !record.delivered) {
      EXPECT_EQ(*word, next_delivered_++);
    }
    record.delivered = true;
    EXPECT_EQ(request.readable_size(), record.readable.size());
    EXPECT_EQ(request.writable_size(), record.writable.size());
    std::vector<std::byte> rest(record.readable.size() - 4);
    ASSERT_TRUE(request.read_bytes(rest));
    EXPECT_TRUE(std::equal(rest.begin(), rest.end(), record.readable.begin() + 4)) << *word;
    kept_.emplace_back(*word, std::move(request));
    if (chance(60)) answer(below(kept_.size()));
    meddle();
  }
  /// The driver does something while the device is in the middle of a pass.
  void meddle() {
    if (meddling_ || !chance(30)) return;
    meddling_ = true;
    if (chance(50)) add();
    if (chance(50)) publish();
    if (chance(50)) drive();
    meddling_ = false;
  }

  void answer(std::size_t index) {
    if (!data_is_there()) return;
    auto [number, request] = std::move(kept_[index]);
    kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(index));
    Record& record = records_.at(number);
    std::vector<std::byte> bytes;
    for (std::size_t i = 0; i < record.written; ++i) bytes.push_back(answer_byte(number, i));
    const Status written = request.write_bytes(bytes);
    EXPECT_TRUE(written) << written.error().message();
    record.answered = true;
    request.complete();
  }

  /// The device has seen an empty ring and is about to ask for kicks.
  void batch_end(unsigned) override { meddle(); }

  void stop_queue(unsigned, StopMode, Completion done) override {
    kept_.clear();
    done();
  }
  void notify_queue(unsigned) override {
    interrupt_ = true;
    meddle();
  }
  void notify_config() override { ADD_FAILURE() << "the device broke: " << said_; }

  // What happens to both.

  bool data_is_there() const { return !away_.contains(0); }  // data_ was allocated first

  void toggle_memory() {
    const std::size_t index = below(mappings_.size());
    if (away_.erase(index) != 0) {
      EXPECT_TRUE(map_.map(mappings_[index]));
      return;
    }
    bool done = false;
    map_.unmap(mappings_[index].range, [&](const Status& status) { done = status.has_value(); });
    away_.insert(index);
    if (!done) loop_.run_until_idle();
    EXPECT_TRUE(done) << "an unmap must not wait for kept requests";
  }
  void toggle_pause() { core_->set_paused(paused_ = !paused_); }
  void toggle_running() {
    if (stopped_) {
      const Status started = core_->start_queue(0, *std::exchange(stopped_, {}));
      EXPECT_TRUE(started) << started.error().message();
      return;
    }
    core_->stop_queue(0, chance(50) ? StopMode::drain : StopMode::discard,
                      [this](Result<QueueState> state) { stopped_ = state.value(); });
    loop_.run_until_idle();
    EXPECT_TRUE(stopped_);
  }
  void repair() {
    while (!away_.empty()) {
      EXPECT_TRUE(map_.map(mappings_[*away_.begin()]));
      away_.erase(away_.begin());
    }
    if (paused_) toggle_pause();
    if (stopped_) toggle_running();
  }

  Config config_;
  std::mt19937_64 rng_;
  testing::ManualLoop loop_;
  testing::PlainDma dma_;
  memory::AddressMap map_{loop_};
  memory::DmaBuffer data_;
  std::unique_ptr<DeviceCore> core_;
  std::optional<testing::CoreTransport> transport_;
  std::optional<DriverQueue> queue_;

  std::map<std::uint32_t, Record> records_;  ///< added, and not back yet
  std::vector<std::uint32_t> unpublished_;
  std::vector<std::size_t> free_slots_;
  std::uint32_t next_number_ = 0;
  std::uint32_t next_delivered_ = 0;
  std::vector<std::pair<std::uint32_t, Request>> kept_;
  bool asleep_ = false, interrupt_ = false, meddling_ = false;

  std::vector<memory::Mapping> mappings_;
  std::set<std::size_t> away_;
  bool paused_ = false;
  std::optional<QueueState> stopped_;
  std::string said_;  ///< by the device's log
};

std::vector<Config> all_configs() {
  std::vector<Config> configs;
  for (const bool packed : {false, true}) {
    const auto sizes = packed ? std::vector<std::uint16_t>{3, 4, 7, 8} : std::vector<std::uint16_t>{2, 4, 8};
    for (const std::uint16_t size : sizes)
      for (unsigned bits = 0; bits < 16; ++bits)
        configs.push_back({.packed = packed,
                           .event_idx = (bits & 1) != 0,
                           .in_order = (bits & 2) != 0,
                           .indirect = (bits & 4) != 0,
                           .size = size,
                           .faults = (bits & 8) != 0});
  }
  return configs;
}

class RingModel : public ::testing::TestWithParam<Config> {};
INSTANTIATE_TEST_SUITE_P(, RingModel, ::testing::ValuesIn(all_configs()),
                         [](const auto& each) { return each.param.name(); });

TEST_P(RingModel, EachBufferIsAnsweredOnceAndNoWakeUpIsLost) {
  std::uint64_t buffers = 0;
  for (std::uint64_t seed = 1; seed <= 25 && !HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    World world(GetParam(), seed);
    for (int round = 0; round < 6 && !HasFailure(); ++round) {
      world.run(150);
      world.finish();
    }
    world.run(100);
    world.give_up();
    buffers += world.total();
  }
  EXPECT_GT(buffers, 200U) << "the schedule must get somewhere";
}

TEST(RingModelLong, IndicesOf16BitsGoRound) {
  for (const bool packed : {false, true}) {
    SCOPED_TRACE(packed ? "packed" : "split");
    World world({.packed = packed, .event_idx = true, .size = 8}, 1);
    while (world.total() < 70'000 && !HasFailure()) world.run(1000);
    world.finish();
  }
}

}  // namespace
}  // namespace outboard::virtio
