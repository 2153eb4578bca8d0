// What a driver over pci::Handle does all the time: a register of a mapped BAR, by its type and by hand; a DMA buffer; an
// interrupt that ends in a callback.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include <benchmark/benchmark.h>

#include <outboard/base/reactor.hpp>
#include <outboard/devices/edu/device.hpp>
#include <outboard/devices/edu/registers.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/pci/register_window.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/plain_function.hpp>

namespace {

using namespace outboard;
using testing::PlainFunction;

[[noreturn]] void fail(const Error& error) {
  std::fprintf(stderr, "%s\n", error.message().c_str());
  std::exit(1);
}
template <typename T>
T need(Result<T> result) {
  if (!result) fail(result.error());
  return std::move(*result);
}
void need(const Status& done) {
  if (!done) fail(done.error());
}

/// A function with a part of its BAR in shared memory, driven by the thread that measures.
class MappedBar {
 public:
  MappedBar() {
    handle_ =
        need(pci::LocalHandle::over(need(PlainFunction::create(loop_)), [this] { loop_.run_until_idle(); }, "bench"));
    need(handle_->enable_memory());
  }
  pci::Handle& handle() { return *handle_; }
  pci::Bar bar() { return need(handle_->bar(0)); }

 private:
  testing::ManualLoop loop_;
  std::unique_ptr<pci::LocalHandle> handle_;
};

struct Tail : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = PlainFunction::area_at + 0x40;
};
struct Scratch : pci::Register<std::uint32_t> {
  using Register::Register;
  static constexpr std::uint64_t offset = PlainFunction::scratch_at;
};

void register_write_typed(benchmark::State& state) {
  MappedBar mapped;
  const auto registers = need(pci::RegisterWindow<Tail>::map(mapped.bar()));
  std::uint32_t value = 0;
  for (auto _ : state) registers.write(Tail(++value));
}
BENCHMARK(register_write_typed)->Name("register/write/typed");

void register_write_raw(benchmark::State& state) {
  MappedBar mapped;
  const auto window = need(mapped.bar().window(Tail::offset, 4));
  auto* const at = reinterpret_cast<volatile std::uint32_t*>(window.data());
  std::uint32_t value = 0;
  for (auto _ : state) *at = ++value;
}
BENCHMARK(register_write_raw)->Name("register/write/raw_volatile");

void register_read_typed(benchmark::State& state) {
  MappedBar mapped;
  const auto registers = need(pci::RegisterWindow<Tail>::map(mapped.bar()));
  for (auto _ : state) benchmark::DoNotOptimize(registers.read<Tail>().value());
}
BENCHMARK(register_read_typed)->Name("register/read/typed");

void register_read_raw(benchmark::State& state) {
  MappedBar mapped;
  const auto window = need(mapped.bar().window(Tail::offset, 4));
  const auto* const at = reinterpret_cast<const volatile std::uint32_t*>(window.data());
  for (auto _ : state) benchmark::DoNotOptimize(*at);
}
BENCHMARK(register_read_raw)->Name("register/read/raw_volatile");

/// Where the BAR is not mapped: the function's own code, in this thread.
void register_read_by_call(benchmark::State& state) {
  MappedBar mapped;
  const pci::Bar bar = mapped.bar();
  for (auto _ : state) benchmark::DoNotOptimize(bar.read<std::uint32_t>(Scratch::offset).value());
}
BENCHMARK(register_read_by_call)->Name("register/read/by_call");

// DMA buffers.

void dma_allocate(benchmark::State& state) {
  MappedBar mapped;
  const auto size = static_cast<std::uint64_t>(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(need(mapped.handle().dma().allocate(size)).data());
}
BENCHMARK(dma_allocate)->Name("dma/allocate_and_free")->ArgName("bytes")->Arg(64)->Arg(512)->Arg(4096)->Arg(65536);

/// A thousand buffers live: what is given out is not what was given back last.
void dma_allocate_among_many(benchmark::State& state) {
  MappedBar mapped;
  const auto size = static_cast<std::uint64_t>(state.range(0));
  std::vector<memory::DmaBuffer> live(1000);
  for (auto& each : live) each = need(mapped.handle().dma().allocate(size));
  std::size_t next = 0;
  for (auto _ : state) {
    next = (next + 617) % live.size();
    live[next].reset();
    live[next] = need(mapped.handle().dma().allocate(size));
  }
}
BENCHMARK(dma_allocate_among_many)->Name("dma/allocate_and_free/1000_live")->ArgName("bytes")->Arg(64)->Arg(4096);

/// Beside the pool: a mapping made and taken away each time.
void dma_map(benchmark::State& state) {
  MappedBar mapped;
  constexpr std::uint64_t size = UINT64_C(2) << 20;
  const auto memory = need(memory::HostMemory::anonymous(size));
  for (auto _ : state)
    benchmark::DoNotOptimize(need(mapped.handle().dma().map({memory->data(), size}, nullptr, 0)).data());
}
BENCHMARK(dma_map)->Name("dma/map_and_unmap/2MiB");

// Interrupts: the device raises, a callback of the driver's loop runs.

void interrupt_in_one_thread(benchmark::State& state) {
  const auto reactor = need(Reactor::create());
  const auto raised = need(EventFd::create());
  std::uint64_t calls = 0;
  const auto watch = need(reactor->watch_eventfd(raised, [&] { ++calls; }));
  for (auto _ : state) {
    const std::uint64_t before = calls;
    raised.signal();
    while (calls == before) need(reactor->run_once(Duration(0)));
  }
}
BENCHMARK(interrupt_in_one_thread)->Name("interrupt/eventfd_to_callback/one_thread");

/// The edu device on a thread of its own: a register access that raises the interrupt, the message, the callback.
void interrupt_from_a_device(benchmark::State& state) {
  auto handle = need(pci::LocalHandle::start(edu::Device::factory({}), {.log = {}, .spin = {}, .name = "edu"}));
  need(handle->enable_bus_master());
  const auto vectors = need(handle->enable_interrupts(pci::InterruptKind::msi, 1));
  const auto bar = need(handle->bar(0));
  const auto reactor = need(Reactor::create());
  std::uint64_t calls = 0;
  const auto watch = need(reactor->watch_eventfd(vectors.vector(0), [&] { ++calls; }));
  for (auto _ : state) {
    const std::uint64_t before = calls;
    need(bar.write(edu::InterruptRaise::offset, 1U));
    while (calls == before) need(reactor->run_once(std::chrono::seconds(1)));
  }
}
BENCHMARK(interrupt_from_a_device)->Name("interrupt/raised_by_register_to_callback/device_on_a_thread")->UseRealTime();

}  // namespace
