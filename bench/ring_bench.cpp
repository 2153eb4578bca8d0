// The device's side of a virtqueue: what it costs to take a buffer out of the ring, hand it to a device that answers
// at once, and put it into the used ring. The driver's part (making buffers available) is not in the time, nor is the
// clock's; the one full fence and the one look at the driver's wish of a batch are.
//
// `per_buffer` is the mean, `min_ns_per_buffer` the best batch: what it takes when nothing else runs on the machine.
//
// Compare on one machine only. Others, for orientation: rust-vmm virtio-queue takes 18 ns to pop and walk a chain of one
// descriptor, 37 ns with a table, and 12.9 ns for add_used; Firecracker publishes 5.3 ns for Queue::pop alone. What is
// left here for one element, besides the ring's own loads and stores: the virtual call of handle(), the slot that lets a
// token be kept and answered from anywhere, a bit that finds a head used twice, the translation of the element, and the
// entry of the batch.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <outboard/base/reactor.hpp>
#include <outboard/journal/file.hpp>
#include <outboard/testing/hand_driver.hpp>
#include <outboard/virtio/internal/device_queue.hpp>

namespace outboard::virtio {
namespace {

using testing::HandDriver;

constexpr std::uint16_t queue_size = 256;

/// Answers at once; nothing is read or written.
class NullDevice final : public Device {
 public:
  Identity identity() const override { return {}; }
  void handle(Request request) override { request.complete(); }
};

/// Reads a 16-byte header and writes one byte, as a block device does for the least of requests.
class HeaderDevice final : public Device {
 public:
  struct Header {
    le32 type, reserved;
    le64 sector;
  };
  Identity identity() const override { return {}; }
  void handle(Request request) override {
    const auto header = request.read<Header>();
    if (!header) return request.violation(header.error());
    benchmark::DoNotOptimize(header->sector);
    if (auto skipped = request.write(std::uint8_t{0}); !skipped) return request.violation(skipped.error());
    request.complete();
  }
};

class Owner final : public QueueOwner {
 public:
  void queue_used(unsigned) override { ++notified; }
  void queue_broken(unsigned, std::string_view, std::string_view what) override {
    std::fprintf(stderr, "broken: %.*s\n", static_cast<int>(what.size()), what.data());
    std::abort();
  }
  std::uint64_t notified = 0;
};

struct Shape {
  const char* name;
  bool packed;
  bool indirect;
  unsigned elements;
};

/// The driver: buffers of one shape, made available `batch` at a time. All of them are used when the next batch comes.
class Stimulus {
 public:
  Stimulus(const Shape& shape, HandDriver& ring) : shape_(shape), ring_(ring), data_(ring.allocate(16384, 4096)) {
    if (shape.elements == 1) {
      elements_ = {{data_, 64, 0}};
    } else {
      elements_ = {
          {data_, 16, 0}, {data_ + 4096, 4096, spec::descriptor::write}, {data_ + 64, 1, spec::descriptor::write}};
    }
    if (shape.indirect) write_table();
    if (!shape.packed) write_split();
    ring.disable_interrupts();
  }

  unsigned largest_batch() const { return queue_size / ring_slots(); }

  void publish(unsigned batch) {
    if (shape_.packed) {
      for (unsigned i = 0; i < batch; ++i) add_packed(static_cast<std::uint16_t>(i));
    } else {
      for (unsigned i = 0; i < batch; ++i)
        ring_.set_avail_entry(avail_++, static_cast<std::uint16_t>(i * ring_slots()));
      ring_.set_avail_idx(avail_);
    }
  }

 private:
  struct Element {
    memory::Iova address;
    std::uint32_t length;
    std::uint16_t flags;
  };

  unsigned ring_slots() const { return shape_.indirect ? 1 : shape_.elements; }

  void write_table() {
    table_ = ring_.allocate(16 * elements_.size());
    for (std::size_t i = 0; i < elements_.size(); ++i)
      write(ring_.at(table_) + 16 * i, i, i + 1 < elements_.size(), i + 1);
    elements_ = {{table_, static_cast<std::uint32_t>(16 * elements_.size()), spec::descriptor::indirect}};
  }
  void write(std::byte* at, std::size_t element, bool more, std::size_t next) {
    const Element& from = elements_[element];
    const auto flags = static_cast<std::uint16_t>(from.flags | (more ? spec::descriptor::next : 0));
    if (shape_.packed) {
      memory::store16(at, spec::PackedDescriptor{raw(from.address), from.length, 0, flags});
    } else {
      memory::store16(at, spec::Descriptor{raw(from.address), from.length, flags, static_cast<std::uint16_t>(next)});
    }
  }
  void write_split() {
    const std::size_t slots = ring_slots();
    for (std::size_t i = 0; i < largest_batch() * slots; ++i) {
      write(ring_.at(ring_.address(0)) + 16 * i, i % slots, (i + 1) % slots != 0, i + 1);
    }
  }
  void add_packed(std::uint16_t id) {
    for (std::size_t i = 0; i < elements_.size(); ++i) {
      const auto flags = static_cast<std::uint16_t>(elements_[i].flags | available_bits(cursor_.wrap) |
                                                    (i + 1 < elements_.size() ? spec::descriptor::next : 0));
      ring_.put_packed(cursor_.slot, {raw(elements_[i].address), elements_[i].length, id, flags});
      cursor_ = cursor_.plus(1, queue_size);
    }
  }

  Shape shape_;
  HandDriver& ring_;
  memory::Iova data_, table_{};
  std::vector<Element> elements_;
  std::uint16_t avail_ = 0;
  PackedCursor cursor_;
};

/// What the clock itself costs, to be taken off: it is more than a buffer.
double clock_cost() {
  double least = 1;
  for (int i = 0; i < 10000; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const auto end = std::chrono::steady_clock::now();
    least = std::min(least, std::chrono::duration<double>(end - start).count());
  }
  return least;
}

/// The log of what is in flight, on a tmpfs as it should be; removed at once, and there until it is closed.
std::unique_ptr<journal::File> make_journal(const QueueState& start, bool packed) {
  const std::string path = "/dev/shm/outboard-ring-bench-" + std::to_string(::getpid());
  const Features offered = packed ? Features{Feature::ring_packed} : Features{};
  auto journal =
      journal::File::create(path, {.device_id = 1, .offered = offered, .queue_sizes = {queue_size}, .config_size = 0});
  if (!journal || !(*journal)->remove()) {
    std::fprintf(stderr, "no journal: %s\n", journal ? "" : journal.error().message().c_str());
    std::abort();
  }
  (*journal)->queue_starting(0, start, packed);
  return std::move(*journal);
}

enum class Journalled : bool { no, yes };

template <typename TheDevice>
void pop_and_complete(benchmark::State& state, Shape shape, unsigned wanted_batch, Journalled journalled) {
  auto loop = *Reactor::create();
  memory::AddressMap map(*loop);
  HandDriver ring({.packed = shape.packed, .size = queue_size});
  if (!map.map(ring.mapping())) std::abort();
  Stimulus driver(shape, ring);
  const unsigned batch = std::min(wanted_batch, driver.largest_batch());
  TheDevice device;
  Owner owner;
  const QueueState at{.size = queue_size,
                      .descriptors = ring.address(0),
                      .driver = ring.address(1),
                      .device = ring.address(2),
                      .enabled = true,
                      .in_flight = {}};
  const auto journal = journalled == Journalled::yes ? make_journal(at, shape.packed) : nullptr;
  const auto queue = std::make_shared<DeviceQueue>(DeviceQueue::Environment{.device = &device,
                                                                            .owner = &owner,
                                                                            .memory = &map,
                                                                            .loop = loop.get(),
                                                                            .control = loop.get(),
                                                                            .journal = journal.get()});
  queue->start(
      at, {.packed = shape.packed, .event_idx = true, .indirect = true, .in_order = false, .chain_limit = queue_size});
  const double overhead = clock_cost();
  double least = 1;
  for (auto _ : state) {
    driver.publish(batch);
    const auto start = std::chrono::steady_clock::now();
    queue->process();
    const auto end = std::chrono::steady_clock::now();
    const double took = std::max(std::chrono::duration<double>(end - start).count() - overhead, 0.0);
    least = std::min(least, took);
    state.SetIterationTime(took);
  }
  state.counters["per_buffer"] = benchmark::Counter(static_cast<double>(state.iterations()) * batch,
                                                    benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  // What it takes when nothing else runs on the machine.
  state.counters["min_ns_per_buffer"] = least * 1e9 / batch;
  queue->quiesce(StopMode::discard);
  queue->finish([](const QueueState&) {});
  queue->abandon();
}

constexpr Shape shapes[] = {
    {"split/direct/1", false, false, 1},  {"split/direct/3", false, false, 3},  {"split/indirect/1", false, true, 1},
    {"split/indirect/3", false, true, 3}, {"packed/direct/1", true, false, 1},  {"packed/direct/3", true, false, 3},
    {"packed/indirect/1", true, true, 1}, {"packed/indirect/3", true, true, 3},
};

template <typename TheDevice>
void add(const char* what, const Shape& shape, unsigned batch, Journalled journalled = Journalled::no) {
  const std::string name = std::string("ring/") + what + "/" + shape.name + "/batch:" + std::to_string(batch);
  benchmark::RegisterBenchmark(name.c_str(), [shape, batch, journalled](benchmark::State& state) {
    pop_and_complete<TheDevice>(state, shape, batch, journalled);
  })->UseManualTime();
}

const bool registered = [] {
  for (const Shape& shape : shapes) add<NullDevice>("pop_complete", shape, 64);
  for (const Shape& shape : shapes) {
    if (shape.elements == 3) add<HeaderDevice>("header_status", shape, 64);
  }
  for (const Shape& shape : shapes) {
    if (!shape.indirect) add<NullDevice>("pop_complete", shape, 1);
  }
  // What a log of what is in flight adds to the rows of the same shape.
  for (const Shape& shape : shapes) add<NullDevice>("journal", shape, 64, Journalled::yes);
  for (const Shape& shape : shapes) {
    if (!shape.indirect) add<NullDevice>("journal", shape, 1, Journalled::yes);
  }
  return true;
}();

}  // namespace
}  // namespace outboard::virtio
