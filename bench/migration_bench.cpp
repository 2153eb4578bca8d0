// What a move of a function needs of its server: windows of memory mapped and unmapped, and reports of what was written; and what it costs
// a device that its writes are noted.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <benchmark/benchmark.h>

#include <outboard/memory/internal/device_writes.hpp>
#include <outboard/memory/internal/dirty_log.hpp>
#include <outboard/vfio_user/client.hpp>
#include <outboard/vfio_user/server.hpp>
#include <tests/support/plain_function.hpp>
#include <tests/support/temp_dir.hpp>

#include "peer_process.hpp"

namespace {

using namespace outboard;
using bench::PeerProcess;
using bench::Placement;
using memory::Iova;
using memory::IovaRange;
using testing::PlainFunction;

constexpr std::uint64_t page = 4096;
constexpr std::uint64_t gib = std::uint64_t{1} << 30;

[[noreturn]] void fail(const Error& error) {
  std::fprintf(stderr, "%s\n", error.message().c_str());
  std::exit(1);
}
void need(const Status& done) {
  if (!done) fail(done.error());
}

/// A server of a function that can be moved, in a process of its own, and a client here.
class Pair {
 public:
  Pair() : path_(directory_.path("socket")), server_(Placement::different_cpus, [this] { serve(); }) {
    auto client = vfio_user::Client::connect(path_, {.wait = std::chrono::seconds(5)});
    if (!client) fail(client.error());
    client_ = std::move(*client);
  }
  vfio_user::Client& client() { return *client_; }

 private:
  void serve() {
    PlainFunction::Options options;
    options.area = false;
    options.migratable = true;
    auto server = vfio_user::Server::listen(path_, PlainFunction::factory(options), vfio_user::Server::Options{});
    if (!server) fail(server.error());
    std::exit(server->run());
  }

  testing::TempDir directory_;
  std::string path_;
  PeerProcess server_;
  std::unique_ptr<vfio_user::Client> client_;
};

/// A sparse memory file that cannot shrink, mapped here.
class Memory {
 public:
  explicit Memory(std::uint64_t size) : fd_(::memfd_create("bench", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) fail(Error::from_errno("ftruncate"));
    ::fcntl(fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK);
    void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd_.get(), 0);
    if (mapped == MAP_FAILED) fail(Error::from_errno("mmap"));
    bytes_ = MutableBytes(static_cast<std::byte*>(mapped), size);
  }
  ~Memory() { ::munmap(bytes_.data(), bytes_.size()); }
  const UniqueFd& fd() const { return fd_; }
  MutableBytes bytes() const { return bytes_; }

 private:
  UniqueFd fd_;
  MutableBytes bytes_;
};

/// Every second page of a file, so that no two windows lie side by side. An item is one DMA_MAP or one DMA_UNMAP.
void BM_MapAndUnmap(benchmark::State& state) {
  Pair pair;
  const auto windows = static_cast<std::uint64_t>(state.range(0));
  const Memory memory(2 * windows * page);
  auto& mapper = pair.client().dma_mapper();
  for (auto _ : state) {
    for (std::uint64_t i = 0; i < windows; ++i)
      need(mapper.map({Iova{gib + 2 * i * page}, page}, memory.bytes().subspan(2 * i * page, page),
                      memory::Access::read_write, &memory.fd(), 2 * i * page));
    for (std::uint64_t i = 0; i < windows; ++i) need(mapper.unmap({Iova{gib + 2 * i * page}, page}));
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(2 * windows));
}

/// One report of all of the memory, in messages of at most a MiB; nothing was written. An item is a GiB.
void BM_DirtyReport(benchmark::State& state) {
  Pair pair;
  const std::uint64_t size = static_cast<std::uint64_t>(state.range(0)) * gib;
  const Memory memory(size);
  need(pair.client().dma_mapper().map({Iova{gib}, size}, memory.bytes(), memory::Access::read_write, &memory.fd(), 0));
  pci::Migration& migration = *pair.client().migration();
  if (auto started = migration.start_dirty_log(page, {}); !started) fail(started.error());
  constexpr std::uint64_t piece = 16 * gib;
  std::vector<std::byte> bitmap(piece / page / 8);
  for (auto _ : state) {
    for (std::uint64_t at = 0; at < size; at += piece)
      need(migration.report_dirty({Iova{gib + at}, piece}, page, bitmap));
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

/// The same in the server alone: a sixteenth of the pages has been written.
void BM_ReportOfWrittenPages(benchmark::State& state) {
  const std::uint64_t size = static_cast<std::uint64_t>(state.range(0)) * gib;
  memory::DirtyLog log;
  need(log.restart({}));
  std::vector<std::byte> bitmap(memory::DirtyLog::bitmap_size(size, page));
  for (auto _ : state) {
    state.PauseTiming();
    for (std::uint64_t at = 0; at < size; at += 16 * page) log.written({Iova{gib + at}, page});
    state.ResumeTiming();
    need(log.report({Iova{gib}, size}, page, bitmap));
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

/// A write of 16 bytes to the driver's memory, as a device makes it: 0: not noted, 1: noted.
void BM_NotedWrite(benchmark::State& state) {
  std::vector<std::byte> memory(64 * page);
  const std::vector<std::byte> data(16);
  memory::DirtyLog log;
  need(log.restart({}));
  memory::DeviceWrites writes;
  if (state.range(0) != 0) writes.set_log(&log);
  std::uint64_t at = 0;
  for (auto _ : state) {
    writes.copy(memory.data() + at, Iova{gib + at}, data);
    at = (at + 272) % (63 * page);
    benchmark::ClobberMemory();
  }
}

BENCHMARK(BM_MapAndUnmap)->ArgName("windows")->Arg(1)->Arg(4096)->Arg(65535)->UseRealTime();
BENCHMARK(BM_DirtyReport)->ArgName("GiB")->Arg(64)->UseRealTime();
BENCHMARK(BM_ReportOfWrittenPages)->ArgName("GiB")->Arg(64);
BENCHMARK(BM_NotedWrite)->ArgName("noted")->Arg(0)->Arg(1);

}  // namespace
