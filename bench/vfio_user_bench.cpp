// Register accesses over a vfio-user socket, beside limits_bench's ping-pong of the same sizes.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include <benchmark/benchmark.h>

#include <outboard/vfio_user/client.hpp>
#include <outboard/vfio_user/server.hpp>
#include <tests/support/plain_function.hpp>
#include <tests/support/temp_dir.hpp>

#include "peer_process.hpp"

namespace {

using namespace outboard;
using bench::PeerProcess;
using bench::Placement;
using testing::PlainFunction;

[[noreturn]] void fail(const Error& error) {
  std::fprintf(stderr, "%s\n", error.message().c_str());
  std::exit(1);
}

/// A server in a process of its own on the placement's processor, and a client here.
class Pair {
 public:
  Pair(Placement placement, Duration spin)
      : path_(directory_.path("socket")), server_(placement, [&] { serve(spin); }) {
    auto client = vfio_user::Client::connect(path_, {.wait = std::chrono::seconds(5)});
    if (!client) fail(client.error());
    client_ = std::move(*client);
    if (auto on = client_->enable_bus_master(); !on) fail(on.error());
  }

  vfio_user::Client& client() { return *client_; }

 private:
  void serve(Duration spin) {
    PlainFunction::Options options;
    options.area = false;
    auto server = vfio_user::Server::listen(path_, PlainFunction::factory(options), {.spin = spin});
    if (!server) fail(server.error());
    std::exit(server->run());
  }

  testing::TempDir directory_;
  std::string path_;
  PeerProcess server_;
  std::unique_ptr<vfio_user::Client> client_;
};

void read_register(benchmark::State& state, Duration spin) {
  Pair pair(Placement(state.range(0)), spin);
  le32 value;
  for (auto _ : state) {
    auto read = pair.client().read_region(pci::region::bar0, PlainFunction::id_at, as_writable_bytes_of(value));
    if (!read) fail(read.error());
  }
  if (value != PlainFunction::id_value) fail(Error(EIO, "the register read wrong"));
}

void BM_RegisterRead(benchmark::State& state) { read_register(state, Duration{0}); }
void BM_RegisterReadSpinningServer(benchmark::State& state) { read_register(state, std::chrono::microseconds(100)); }

void BM_PostedWrite(benchmark::State& state) {
  Pair pair(Placement(state.range(0)), Duration{0});
  const le32 value(1);
  le32 back;
  for (auto _ : state) {
    // One read at the end of a batch proves that all have been processed, and keeps the socket from filling up.
    for (int i = 0; i < 64; ++i) {
      auto posted = pair.client().post_write(pci::region::bar0, PlainFunction::scratch_at, as_bytes_of(value));
      if (!posted) fail(posted.error());
    }
    auto read = pair.client().read_region(pci::region::bar0, PlainFunction::scratch_at, as_writable_bytes_of(back));
    if (!read) fail(read.error());
  }
  state.SetItemsProcessed(state.iterations() * 64);
}

constexpr auto same = static_cast<int>(Placement::same_cpu);
constexpr auto different = static_cast<int>(Placement::different_cpus);

BENCHMARK(BM_RegisterRead)->ArgName("different_cpus")->Arg(same)->Arg(different)->UseRealTime();
BENCHMARK(BM_RegisterReadSpinningServer)->ArgName("different_cpus")->Arg(different)->UseRealTime();
BENCHMARK(BM_PostedWrite)->ArgName("different_cpus")->Arg(same)->Arg(different)->UseRealTime();

}  // namespace
