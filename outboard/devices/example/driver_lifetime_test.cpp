// Who may destroy what, and when: a callback destroys its call, submits others and sets other callbacks, whatever it is
// called for. A hostile device chooses that. What this shows, it shows under AddressSanitizer.

#include <outboard/devices/example/driver.hpp>

#include <cstring>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <tuple>

#include <gtest/gtest.h>

#include <outboard/testing/fake_transport.hpp>
#include <outboard/testing/hand_device.hpp>
#include <outboard/testing/manual_loop.hpp>

namespace outboard::example {
namespace {

using testing::FakeTransport;
using testing::HandDevice;
using testing::ManualLoop;

class Rig {
 public:
  explicit Rig(bool packed) : packed_(packed) {
    transport.type = device_id;
    transport.offered = {virtio::Feature::version_1, feature::limit};
    if (packed) transport.offered.set(virtio::Feature::ring_packed);
    for (int i = 0; i < 3; ++i) transport.vectors.push_back(EventFd::create().value());
    const spec::Config config{.limit = 100, .reserved = 0, .epoch = 0};
    const Bytes bytes = as_bytes_of(config);
    transport.config.assign(bytes.begin(), bytes.end());
    driver.emplace(Driver::start(transport, {.depth = 8, .loop = &loop}).value());
    requestq.emplace(transport, request_queue, packed);
    eventq.emplace(transport, event_queue, packed);
    replace_callbacks();
  }

  void interrupt(unsigned vector) {
    transport.vectors[vector].signal();
    loop.run_until_idle();
  }
  /// A call that destroys itself when it ends, and submits another one.
  void submit() {
    auto call = std::make_unique<Owned>(*this);
    call->done = [](Call& ended) {
      const std::unique_ptr<Owned> self(&static_cast<Owned&>(ended));
      ++self->rig.ended;
      if (self->rig.driver && self->rig.submitted < 20) self->rig.submit();
    };
    ++submitted;
    if (driver->submit(*call)) {
      static_cast<void>(call.release());
    } else {
      ++ended;
    }
  }
  /// Callbacks that set others, which destroys themselves; what they hold is used afterwards.
  void replace_callbacks() {
    driver->on_event([this, held = std::string(100, 'e')](const Event&) {
      replace_callbacks();
      submit();
      told += held.size() / 100;
    });
    driver->on_limit([this, held = std::string(100, 'l')](const Limit&) {
      replace_callbacks();
      submit();
      told += held.size() / 100;
    });
  }
  void answer(const spec::Reply& reply) {
    while (const auto chain = requestq->pop()) {
      const auto& part = chain->elements.back();
      std::memcpy(transport.space.host(part.address, part.length), &reply, part.length);
      requestq->use(*chain, part.length);
      interrupt(1);
    }
  }
  void tell() {
    const spec::Event event{.type = spec::event::limit_hit, .missed = 0, .value = 1, .reserved = 0};
    const auto chain = eventq->pop();
    ASSERT_TRUE(chain);
    std::memcpy(transport.space.host(chain->elements.at(0).address, sizeof event), &event, sizeof event);
    eventq->use(*chain, sizeof event);
    interrupt(2);
  }

  bool packed_;
  testing::FakeClock clock;
  ManualLoop loop{clock};
  FakeTransport transport{2};
  std::optional<Driver> driver;
  std::optional<HandDevice> requestq, eventq;
  unsigned submitted = 0, ended = 0, alive = 0;
  std::size_t told = 0;

 private:
  struct Owned : Call {
    explicit Owned(Rig& owner) : rig(owner) { ++rig.alive; }
    ~Owned() { --rig.alive; }
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    Rig& rig;
  };
};

struct Ending {
  const char* name;
  void (*happen)(Rig& rig);
  friend void PrintTo(const Ending& ending, std::ostream* to) { *to << ending.name; }
};

const Ending endings[] = {
    {"Answered", [](Rig& r) { r.answer({.result = 2}); }},
    {"AnsweredWithNonsense", [](Rig& r) { r.answer({.result = 2, .status = 77}); }},
    {"ProtocolError",
     [](Rig& r) {
       r.requestq->use(4095, 1, 1);
       r.interrupt(1);
     }},
    {"ProtocolErrorOfTheEventQueue",
     [](Rig& r) {
       r.eventq->use(4095, 1, 1);
       r.interrupt(2);
     }},
    {"NeedsReset",
     [](Rig& r) {
       r.transport.current_status |= virtio::spec::status::needs_reset;
       r.interrupt(0);
     }},
    {"NeverAnswered", [](Rig& r) { r.loop.advance(std::chrono::seconds(1000)); }},
    {"NeverReset",
     [](Rig& r) {
       r.transport.resets = false;
       r.transport.current_status |= virtio::spec::status::needs_reset;
       r.interrupt(0);
       r.transport.resets = true;
     }},
    {"PulledOut",
     [](Rig& r) {
       r.transport.go();
       r.loop.run_until_idle();
     }},
    {"PulledOutWhileTheDoorbellIsRung",
     [](Rig& r) {
       r.transport.on_ring = [&r](unsigned) { r.transport.go(); };
       r.submit();
       r.driver->publish();
       r.loop.run_until_idle();
     }},
    {"Restarted", [](Rig& r) { ASSERT_TRUE(r.driver->restart()); }},
    {"DriverDestroyed", [](Rig& r) { r.driver.reset(); }},
};

using Parameters = std::tuple<bool, Ending>;

std::string name_of(const ::testing::TestParamInfo<Parameters>& each) {
  const auto& [packed, ending] = each.param;
  return std::string(ending.name) + (packed ? "Packed" : "Split");
}

class ExampleCallback : public ::testing::TestWithParam<Parameters> {
 protected:
  Rig r{std::get<bool>(GetParam())};
};
INSTANTIATE_TEST_SUITE_P(, ExampleCallback, ::testing::Combine(::testing::Bool(), ::testing::ValuesIn(endings)),
                         name_of);

TEST_P(ExampleCallback, MayDestroyItsCall) {
  for (int i = 0; i < 4; ++i) r.submit();
  r.driver->publish();

  std::get<Ending>(GetParam()).happen(r);
  EXPECT_GE(r.ended, 4u) << "this way nothing ends";
  r.driver.reset();

  EXPECT_EQ(r.ended, r.submitted) << "each ends once";
  EXPECT_EQ(r.alive, 0u);
}

class ExampleCallbackThatIsTold : public ::testing::TestWithParam<bool> {
 protected:
  Rig r{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(, ExampleCallbackThatIsTold, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

TEST_P(ExampleCallbackThatIsTold, OfAnEventMaySetAnother) {
  r.tell();
  r.tell();
  EXPECT_EQ(r.told, 2u);
}

TEST_P(ExampleCallbackThatIsTold, OfTheLimitMaySetAnother) {
  r.interrupt(0);
  r.interrupt(0);
  EXPECT_EQ(r.told, 2u);
}

}  // namespace
}  // namespace outboard::example
