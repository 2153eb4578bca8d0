// Who may destroy what, and when: a completion destroys its operation and the memory of it, and submits others, however the
// operation ends. A hostile device chooses the end. What this shows, it shows under AddressSanitizer.

#include <outboard/devices/blk/driver.hpp>

#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/testing/fake_transport.hpp>
#include <outboard/testing/hand_device.hpp>
#include <outboard/testing/manual_loop.hpp>

namespace outboard::blk {
namespace {

using testing::FakeTransport;
using testing::HandDevice;
using testing::ManualLoop;

enum class Completion : std::uint8_t { destroys, destroys_and_submits, destroys_and_polls };

class Rig {
 public:
  Rig(bool packed, Completion completion) : packed_(packed), completion_(completion) {
    transport.type = device_id;
    transport.offered = {virtio::Feature::version_1, feature::size_max, feature::seg_max, feature::flush,
                         feature::discard};
    if (packed) transport.offered.set(virtio::Feature::ring_packed);
    config.capacity = 2048;
    config.size_max = 4096;
    config.seg_max = 16;
    config.max_discard_sectors = 16;
    config.max_discard_seg = 1;
    for (int i = 0; i < 2; ++i) transport.vectors.push_back(EventFd::create().value());
    store_config();
  }

  void store_config() {
    const Bytes bytes = as_bytes_of(config);
    transport.config.assign(bytes.begin(), bytes.end());
  }
  void start() {
    Driver::Options options;
    options.loop = &loop;
    options.depth = 2;
    options.indirect = false;
    driver.emplace(Driver::start(transport, options).value());
    take_over();
  }
  void interrupt(unsigned vector) {
    transport.vectors[vector].signal();
    loop.run_until_idle();
  }
  void ask_for_reset() {
    transport.current_status |= virtio::spec::status::needs_reset;
    interrupt(0);
  }

  /// Two requests with the device, the others waiting; one operation of each kind, and one that is sent in parts.
  void submit_all() {
    submit(Io::Kind::read, 8, 64);
    submit(Io::Kind::discard, 0, 0, 40);
    submit(Io::Kind::write, 8, 64);
    submit(Io::Kind::flush, 0, 0);
    submit(Io::Kind::get_id, 0, 0);
    submit(Io::Kind::read, 64, 512);
    submit(Io::Kind::discard, 0, 0, 1);
    if (driver) driver->queue(0).publish();
  }
  /// Serves what the driver has made available, as an honest device does, with `status`.
  void serve(std::uint8_t status) {
    while (const auto chain = hand->pop()) {
      std::uint32_t writable = 0;
      for (const auto& part : chain->elements) writable += part.writable ? part.length : 0;
      const auto& last = chain->elements.back();
      std::memcpy(transport.space.host(last.address + (last.length - 1), 1), &status, 1);
      hand->use(*chain, writable);
      interrupt(1);
    }
  }
  /// The device's end of the ring that the driver has set up last.
  void take_over() {
    const memory::Iova ring = transport.queue(0).setup.descriptors;
    if (hand && ring == taken_over_) return;
    hand.emplace(transport, 0, packed_);
    taken_over_ = ring;
  }

  spec::Config config;
  testing::FakeClock clock;
  ManualLoop loop{clock};
  FakeTransport transport;
  std::optional<Driver> driver;
  std::optional<HandDevice> hand;
  unsigned submitted = 0, ended = 0, alive = 0;

 private:
  struct Operation : Io {
    explicit Operation(Rig& owner) : rig(owner) { ++rig.alive; }
    ~Operation() { --rig.alive; }
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;
    Rig& rig;
    memory::DmaBuffer memory;
    std::vector<virtio::Element> elements;
    std::array<char, spec::id_size> name{};
  };

  void submit(Io::Kind kind, unsigned elements, std::uint32_t size, std::uint64_t sectors = 0) {
    auto operation = std::make_unique<Operation>(*this);
    operation->kind = kind;
    operation->sectors = sectors;
    operation->id = &operation->name;
    if (elements != 0) {
      operation->memory = transport.space.allocate(std::uint64_t{elements} * size).value();
      for (unsigned i = 0; i < elements; ++i)
        operation->elements.push_back({operation->memory.iova() + std::uint64_t{i} * size, size});
      operation->data = operation->elements;
    }
    operation->done = [](Io& io) {
      const std::unique_ptr<Operation> self(&static_cast<Operation&>(io));
      self->rig.completed();
    };
    ++submitted;
    if (driver->queue(0).submit(*operation)) {
      static_cast<void>(operation.release());
    } else {
      ++ended;
    }
  }
  void completed() {
    ++ended;
    if (!driver || completion_ == Completion::destroys) return;
    if (completion_ == Completion::destroys_and_polls) {
      driver->queue(0).publish();
      driver->queue(0).poll();
    }
    if (submitted < 40) submit(submitted % 2 == 0 ? Io::Kind::flush : Io::Kind::read, 8, 64);
  }

  bool packed_;
  Completion completion_;
  memory::Iova taken_over_{};
};

/// A way in which operations end.
struct Ending {
  const char* name;
  void (*happen)(Rig& rig);
  friend void PrintTo(const Ending& ending, std::ostream* to) { *to << ending.name; }
};

const Ending endings[] = {
    {"Answered", [](Rig& r) { r.serve(spec::status::ok); }},
    {"AnsweredWithAnError", [](Rig& r) { r.serve(spec::status::ioerr); }},
    {"AnsweredWithNonsense", [](Rig& r) { r.serve(77); }},
    {"SmallerSegmentsAfterAReset",
     [](Rig& r) {
       r.config.seg_max = 1;
       r.store_config();
       r.ask_for_reset();
     }},
    {"NoDiscardAfterAReset",
     [](Rig& r) {
       r.config.max_discard_sectors = 0;
       r.store_config();
       r.ask_for_reset();
     }},
    {"ASmallerRingAfterAReset",
     [](Rig& r) {
       r.transport.queue(0).max_size = 4;
       r.ask_for_reset();
     }},
    {"SmallerSegmentsAfterAProtocolError",
     [](Rig& r) {
       r.config.seg_max = 1;
       r.store_config();
       r.hand->use(4095, 1, 1);
       r.interrupt(1);
     }},
    {"SentTooOften",
     [](Rig& r) {
       for (int i = 0; i < 3; ++i) r.ask_for_reset();
     }},
    {"ResetTooOften",
     [](Rig& r) {
       for (int i = 0; i < 4; ++i) r.ask_for_reset();
     }},
    {"NeverAnswered", [](Rig& r) { r.loop.advance(std::chrono::seconds(1000)); }},
    {"NeverReset",
     [](Rig& r) {
       r.transport.resets = false;
       r.ask_for_reset();
       r.transport.resets = true;
     }},
    {"OtherFeaturesAfterAReset",
     [](Rig& r) {
       r.transport.offered.clear(feature::flush);
       r.ask_for_reset();
     }},
    {"PulledOut",
     [](Rig& r) {
       r.transport.go();
       r.loop.run_until_idle();
     }},
    {"DriverDestroyed", [](Rig& r) { r.driver.reset(); }},
};

using Parameters = std::tuple<bool, Completion, Ending>;

std::string name_of(const ::testing::TestParamInfo<Parameters>& each) {
  const auto& [packed, completion, ending] = each.param;
  std::string name = std::string(ending.name) + "Destroys";
  if (completion == Completion::destroys_and_submits) name += "AndSubmits";
  if (completion == Completion::destroys_and_polls) name += "AndPolls";
  return name + (packed ? "Packed" : "Split");
}

class BlkCompletion : public ::testing::TestWithParam<Parameters> {};
INSTANTIATE_TEST_SUITE_P(, BlkCompletion,
                         ::testing::Combine(::testing::Bool(),
                                            ::testing::Values(Completion::destroys, Completion::destroys_and_submits,
                                                              Completion::destroys_and_polls),
                                            ::testing::ValuesIn(endings)),
                         name_of);

TEST_P(BlkCompletion, MayDestroyTheOperationAndItsMemory) {
  const auto& [packed, completion, ending] = GetParam();
  Rig r(packed, completion);
  r.start();
  r.submit_all();

  ending.happen(r);
  if (r.driver && r.transport.queue(0).enabled) {
    r.take_over();
    r.serve(spec::status::ok);
  }
  EXPECT_GE(r.ended, 2u) << "this way nothing ends";
  r.driver.reset();

  EXPECT_EQ(r.ended, r.submitted) << "each ends once";
  EXPECT_EQ(r.alive, 0u);
}

TEST(BlkQueuesThatWereStopped, StayStoppedWhateverTheDeviceDoes) {
  Rig r(false, Completion::destroys);
  r.start();
  bool stopped = false;
  r.driver->stop_queues([&] { stopped = true; });
  r.loop.run_until_idle();
  ASSERT_TRUE(stopped);

  r.ask_for_reset();
  r.loop.advance(std::chrono::seconds(1000));
  r.transport.go();
  r.loop.run_until_idle();

  EXPECT_EQ(r.driver->recoveries(), 0u);
}

TEST(BlkQueuesThatAreStopped, MayHaveTheirDriverDestroyedWhenToldSo) {
  Rig r(false, Completion::destroys);
  r.start();
  r.submit_all();
  r.driver->stop_queues([&] { r.driver.reset(); });
  r.loop.run_until_idle();
  EXPECT_FALSE(r.driver);
  EXPECT_EQ(r.alive, 0u);
}

}  // namespace
}  // namespace outboard::blk
