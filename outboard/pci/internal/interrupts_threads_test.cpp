#include <atomic>
#include <thread>

#include <gtest/gtest.h>

#include <outboard/pci/internal/interrupts.hpp>
#include <outboard/testing/manual_loop.hpp>

namespace outboard::pci {
namespace {

/// A queue's thread that signals vector 0 once for each round it is asked for.
class Signaller {
 public:
  Signaller(Interrupts& interrupts, std::uint64_t rounds)
      : thread_([this, &interrupts, rounds] {
          for (std::uint64_t round = 1; round <= rounds; ++round) {
            for (unsigned spins = 0; asked_.load() < round; ++spins) {
              if (spins % 4096 == 4095) std::this_thread::yield();
            }
            interrupts.signal_msix(0);
            done_.store(round);
          }
        }) {}
  ~Signaller() {
    asked_.store(UINT64_MAX);
    thread_.join();
  }

  void ask(std::uint64_t round) { asked_.store(round); }
  bool done(std::uint64_t round) const { return done_.load() >= round; }

 private:
  std::atomic<std::uint64_t> asked_{0}, done_{0};
  std::thread thread_;
};

/// The rule behind MessageVectors: in whatever order a signal and the control thread come, nothing is lost and nothing
/// comes twice.
class InterruptsRace : public ::testing::Test {
 protected:
  InterruptsRace() {
    interrupts.set_counts(0, 0, 1);
    interrupts.set_bus_master(true);
    bind(false);
  }
  void bind(bool bound) {
    std::vector<EventFd> list(1);
    if (bound) list[0] = std::move(*EventFd::adopt(std::move(*fd.fd().duplicate())));
    ASSERT_TRUE(interrupts.bind(InterruptKind::msix, 0, std::move(list)));
  }

  testing::ManualLoop loop;
  Interrupts interrupts{loop};
  EventFd fd = std::move(*EventFd::create());
};

TEST_F(InterruptsRace, ASignalDuringBindingAndUnbindingIsDeliveredOnce) {
  constexpr std::uint64_t rounds = 1000;
  Signaller queue(interrupts, rounds);
  for (std::uint64_t round = 1; round <= rounds; ++round) {
    queue.ask(round);
    do {
      bind(true);
      bind(false);
      std::this_thread::yield();
    } while (!queue.done(round));
    bind(true);
    EXPECT_EQ(fd.drain(), 1u) << "round " << round;
    bind(false);
  }
}

TEST_F(InterruptsRace, ASignalThatMeetsTheEndOfAMaskIsDeliveredOnce) {
  constexpr std::uint64_t rounds = 20'000;
  bind(true);
  Signaller queue(interrupts, rounds);
  for (std::uint64_t round = 1; round <= rounds; ++round) {
    interrupts.set_bus_master(false);
    queue.ask(round);
    // Now early, now late: the two have to meet within a few instructions, on one CPU or on two.
    if (round % 2 == 0) std::this_thread::yield();
    for (std::uint64_t i = 0; i < round % 200; ++i) static_cast<void>(queue.done(round));
    interrupts.set_bus_master(true);
    while (!queue.done(round)) std::this_thread::yield();
    ASSERT_EQ(fd.drain(), 1u) << "round " << round;
  }
}

}  // namespace
}  // namespace outboard::pci
