// What one request costs when the device does next to nothing: the floor of the framework. Items are requests.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include <benchmark/benchmark.h>

#include <outboard/devices/example/device.hpp>
#include <outboard/devices/example/driver.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/testing/loopback_transport.hpp>
#include <outboard/vfio_user/client.hpp>
#include <outboard/vfio_user/server.hpp>
#include <outboard/virtio_pci/function.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tests/support/temp_dir.hpp>

#include "peer_process.hpp"

namespace {

using namespace outboard;
using bench::PeerProcess;
using bench::Placement;

[[noreturn]] void fail(const Error& error) {
  std::fprintf(stderr, "%s\n", error.message().c_str());
  std::exit(1);
}

pci::FunctionFactory example_function(bool poll) {
  virtio_pci::Function::Options options;
  options.core.poll = poll;
  options.shared_doorbells = poll;
  return virtio_pci::Function::factory(
      [](Loop&, const Log&) -> Result<std::unique_ptr<virtio::Device>> {
        OUTBOARD_TRY(std::unique_ptr<virtio::Device> device, example::Device::create({.queue_size = 256}));
        return device;
      },
      options);
}

/// Holds `depth` calls in flight: each is sent again when it has been answered.
class Calls {
 public:
  Calls(example::Driver& driver, unsigned depth) : driver_(driver), calls_(depth) {
    for (example::Call& call : calls_) {
      call.context = this;
      call.done = [](example::Call& ended) { static_cast<Calls*>(ended.context)->answered(ended); };
    }
  }

  template <typename Turn>
  void run(benchmark::State& state, const Turn& turn) {
    for (example::Call& call : calls_) send(call);
    driver_.publish();
    std::uint64_t before = 0;
    while (state.KeepRunningBatch(static_cast<std::int64_t>(calls_.size()))) {
      while (answered_ - before < calls_.size()) turn();
      before += calls_.size();
    }
    stopping_ = true;
    while (in_flight_ != 0) turn();
    state.SetItemsProcessed(state.iterations());
  }

 private:
  void send(example::Call& call) {
    call.value = static_cast<std::uint32_t>(answered_);
    if (const auto sent = driver_.submit(call); !sent) fail(sent.error());
    ++in_flight_;
  }
  void answered(example::Call& call) {
    if (call.error != 0) fail(Error(call.error));
    ++answered_;
    --in_flight_;
    if (!stopping_) send(call);
  }

  example::Driver& driver_;
  std::vector<example::Call> calls_;
  std::uint64_t answered_ = 0;
  unsigned in_flight_ = 0;
  bool stopping_ = false;
};

/// Device and driver in one thread, nothing in between but the rings.
void BM_InOneThread(benchmark::State& state) {
  const bool packed = state.range(1) != 0;
  const auto device = example::Device::create({.queue_size = 256}).value();
  testing::ManualLoop device_loop, loop;
  testing::LoopbackTransport transport(*device, device_loop, {.packed = packed});
  auto driver = example::Driver::start(transport, {.packed = packed, .poll = true, .loop = &loop});
  if (!driver) fail(driver.error());
  Calls(*driver, static_cast<unsigned>(state.range(0))).run(state, [&] {
    device_loop.run_until_idle();
    driver->poll();
  });
}

void drive(benchmark::State& state, pci::Handle& handle, bool poll) {
  auto driver = example::Driver::start(handle, {.poll = poll});
  if (!driver) fail(driver.error());
  unsigned turns = 0;
  Calls(*driver, static_cast<unsigned>(state.range(0))).run(state, [&] {
    if (poll) {
      driver->poll();
      if (++turns % 1024 != 0) return;
    }
    if (const auto waited = poll ? driver->process() : driver->wait(Duration(-1)); !waited) fail(waited.error());
  });
}

/// The device on a thread of its own, as `local:example` has it.
void local(benchmark::State& state, bool poll) {
  auto handle = pci::LocalHandle::start(example_function(poll), {.name = "local:example"});
  if (!handle) fail(handle.error());
  drive(state, **handle, poll);
}

void over_vfio_user(benchmark::State& state, Placement placement, bool poll) {
  testing::TempDir directory;
  const std::string path = directory.path("socket");
  const PeerProcess peer(placement, [&] {
    auto server = vfio_user::Server::listen(path, example_function(poll));
    if (!server) fail(server.error());
    std::exit(server->run());
  });
  auto client = vfio_user::Client::connect(path, {.wait = std::chrono::seconds(5)});
  if (!client) fail(client.error());
  drive(state, **client, poll);
}

void BM_LocalInterrupts(benchmark::State& state) { local(state, false); }
void BM_VfioUserInterrupts(benchmark::State& state) { over_vfio_user(state, Placement(state.range(1)), false); }
void BM_VfioUserPolled(benchmark::State& state) { over_vfio_user(state, Placement::different_cpus, true); }

constexpr auto same = static_cast<int>(Placement::same_cpu);
constexpr auto different = static_cast<int>(Placement::different_cpus);

BENCHMARK(BM_InOneThread)->ArgNames({"depth", "packed"})->ArgsProduct({{1, 64}, {0, 1}});
BENCHMARK(BM_LocalInterrupts)->ArgName("depth")->Arg(1)->Arg(64)->UseRealTime();
BENCHMARK(BM_VfioUserInterrupts)
    ->ArgNames({"depth", "different_cpus"})
    ->ArgsProduct({{1, 64}, {same, different}})
    ->UseRealTime();
BENCHMARK(BM_VfioUserPolled)->ArgName("depth")->Arg(1)->Arg(64)->UseRealTime();

}  // namespace
