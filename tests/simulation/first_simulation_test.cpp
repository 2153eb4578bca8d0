// The first test of docs/simulation.md: a device of the reader's own under faults.

#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/devices/example/driver.hpp>
#include <outboard/testing/explore.hpp>
#include <outboard/vfio_user/client.hpp>
#include <outboard/vfio_user/server.hpp>
#include <outboard/virtio/device.hpp>
#include <outboard/virtio_pci/function.hpp>
#include <outboard/virtio_pci/transport.hpp>

using namespace outboard;
using outboard::testing::Process;
using outboard::testing::Simulation;
using namespace std::chrono_literals;

const std::string path = ::testing::TempDir() + "next-number-" + std::to_string(::getpid());
const auto never = [] { return false; };

/// The device under test: answers each number with the next one.
class NextNumber final : public virtio::Device {
 public:
  virtio::Identity identity() const override { return {.device_id = 63, .queue_sizes = {64}}; }

  void handle(virtio::Request request) override {
    const auto number = request.read<le32>();
    if (!number) return request.violation(number.error());
    if (const auto room = request.write(le32{*number + 1}); !room) return request.violation(room.error());
    request.complete();
  }
};

void serve(Process& self) {
  for (;; self.run_for(10ms, never)) {  // descriptors may run out: it tries again
    const auto server =
        vfio_user::Server::listen(path, virtio_pci::Function::of<NextNumber>(), {.loop = &self.loop(), .log = Log()});
    if (server) self.run();
  }
}

void drive(Process& self) {
  bool done = false;
  example::Call call{.done = [](example::Call& one) { *static_cast<bool*>(one.context) = true; }, .context = &done};
  for (; call.value < 20; self.run_for(10ms, never)) {  // the server may not be there, or die: it starts again
    auto client = vfio_user::Client::connect(path);
    if (!client) continue;
    const auto wait = [&](Duration time) { self.pause(time); };
    auto transport = virtio_pci::Transport::open(**client, {.clock = &self.loop().clock(), .wait = wait});
    if (!transport) continue;
    auto driver = example::Driver::start(std::move(*transport), {.loop = &self.loop()});
    for (; driver && call.value < 20; ++call.value) {
      done = false;
      if (!driver->submit(call)) break;
      driver->publish();
      self.run_until([&] { return done; });
      if (call.error != 0) break;
      self.require(call.answer.result == call.value + 1, "a wrong answer");
    }
  }
}

TEST(NextNumber, IsRightWhateverFails) {
  const auto world = [](Simulation& simulation) {
    simulation.add_process("server", Simulation::Role::server, Simulation::Mortality::restarts, serve);
    simulation.add_process("driver", Simulation::Role::worker, Simulation::Mortality::restarts, drive);
    return simulation.run();
  };
  const auto found = outboard::testing::explore(world, {.seeds = 300});
  EXPECT_FALSE(found) << describe(*found);
}
