// What this machine can do at best: the figures that everything else is held against.

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <benchmark/benchmark.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "peer_process.hpp"

namespace {

using outboard::bench::PeerProcess;
using outboard::bench::Placement;

// The sizes of a vfio-user REGION_READ of four bytes and its reply.
constexpr std::size_t request_size = 32;
constexpr std::size_t reply_size = 36;

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

void answer_for_ever(int socket, int flags) {
  char buffer[64] = {};
  while (true) {
    const auto got = recv(socket, buffer, request_size, flags);
    if (got < 0 && errno == EAGAIN) continue;
    if (got != static_cast<ssize_t>(request_size)) return;
    if (send(socket, buffer, reply_size, MSG_NOSIGNAL) < 0) return;
  }
}

void socket_ping_pong(benchmark::State& state, int server_flags) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) fail("socketpair");
  const PeerProcess server(Placement(state.range(0)), [&] { answer_for_ever(pair[1], server_flags); });
  char buffer[64] = {};
  for (auto _ : state) {
    if (send(pair[0], buffer, request_size, MSG_NOSIGNAL) < 0) fail("send");
    if (recv(pair[0], buffer, reply_size, MSG_WAITALL) != static_cast<ssize_t>(reply_size)) fail("recv");
  }
  close(pair[0]);
  close(pair[1]);
}

void BM_SocketPingPong(benchmark::State& state) { socket_ping_pong(state, 0); }
void BM_SocketPingPongSpinningServer(benchmark::State& state) { socket_ping_pong(state, MSG_DONTWAIT); }

void BM_EventfdPingPong(benchmark::State& state) {
  const int there = eventfd(0, 0);
  const int back = eventfd(0, 0);
  const PeerProcess peer(Placement(state.range(0)), [&] {
    std::uint64_t count = 0;
    while (read(there, &count, sizeof count) == sizeof count) {
      if (write(back, &count, sizeof count) != sizeof count) return;
    }
  });
  std::uint64_t one = 1;
  for (auto _ : state) {
    if (write(there, &one, sizeof one) != sizeof one) fail("write");
    if (read(back, &one, sizeof one) != sizeof one) fail("read");
  }
  close(there);
  close(back);
}

struct Lines {
  alignas(64) std::atomic<std::uint64_t> there;
  alignas(64) std::atomic<std::uint64_t> back;
};

void BM_CacheLineThereAndBack(benchmark::State& state) {
  void* memory = mmap(nullptr, sizeof(Lines), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  auto* lines = new (memory) Lines{};
  const PeerProcess peer(Placement(state.range(0)), [&] {
    std::uint64_t seen = 0;
    while (true) {
      while (lines->there.load(std::memory_order_acquire) == seen) {
      }
      lines->back.store(++seen, std::memory_order_release);
    }
  });
  std::uint64_t sent = 0;
  for (auto _ : state) {
    lines->there.store(++sent, std::memory_order_release);
    while (lines->back.load(std::memory_order_acquire) != sent) {
    }
  }
  munmap(memory, sizeof(Lines));
}

constexpr auto same = static_cast<int>(Placement::same_cpu);
constexpr auto different = static_cast<int>(Placement::different_cpus);

BENCHMARK(BM_SocketPingPong)->ArgName("different_cpus")->Arg(same)->Arg(different)->UseRealTime();
BENCHMARK(BM_SocketPingPongSpinningServer)->ArgName("different_cpus")->Arg(different)->UseRealTime();
BENCHMARK(BM_EventfdPingPong)->ArgName("different_cpus")->Arg(same)->Arg(different)->UseRealTime();
BENCHMARK(BM_CacheLineThereAndBack)->ArgName("different_cpus")->Arg(different)->UseRealTime();

}  // namespace
