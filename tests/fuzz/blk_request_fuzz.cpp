// The block device against whatever a driver may put into requests: types, sectors, lengths, segments, directions. The
// rings are right (they have targets of their own); what is in the buffers is the input.
//
// Input: one byte of options, then requests: a byte with the number of readable (bits 0-1) and writable (bits 2-3) pieces,
// a 16-bit length for each piece, the bytes of the readable ones (missing ones are zero).

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include <outboard/devices/blk/device.hpp>
#include <outboard/testing/loopback_transport.hpp>
#include <outboard/virtio/driver_queue.hpp>
#include <outboard/virtio/spec.hpp>
#include <tests/support/held_backend.hpp>
#include "input.hpp"

namespace {

using namespace outboard;
using fuzz::Input;
using fuzz::require;

constexpr std::uint64_t disk_size = 64 << 10;
constexpr std::size_t arena_size = 512 << 10;
constexpr std::byte guard{0xa5};

struct Fuzzed {
  explicit Fuzzed(unsigned options) {
    auto backend = std::make_unique<testing::HeldBackend>(disk_size);
    backend->shape.read_only = (options & 2) != 0;
    if ((options & 4) != 0) backend->fails = [](const auto& call) { return call.offset % 1024 == 0 ? EIO : 0; };
    device = blk::Device::create(std::move(backend), {.queue_size = 64}).value();
    transport.emplace(*device, loop, testing::LoopbackTransport::Options{.packed = (options & 1) != 0});
    virtio::Features features = transport->core().offered();
    if ((options & 8) != 0) features.clear(blk::feature::flush);
    if ((options & 16) != 0) features.clear(blk::feature::discard);
    const auto agreed = virtio::negotiate(*transport, features);
    queue.emplace(virtio::DriverQueue::create(*transport, 0, agreed.value(), {.size = 64}).value());
    arena = transport->dma().allocate(arena_size).value();
    require(virtio::start_device(*transport).has_value(), "the device does not start");
  }

  /// Lays the request out, with a guard byte behind each piece. False: there is nothing in it.
  bool lay_out(Input& input) {
    const unsigned shape = input.byte();
    readable.clear();
    writable.clear();
    std::fill_n(arena.data(), used_bytes, guard);
    used_bytes = 0;
    for (unsigned i = 0; i < (shape & 3); ++i) place(readable, input.number(2));
    for (unsigned i = 0; i < (shape >> 2 & 3); ++i) place(writable, input.number(2));
    for (const auto& element : readable) input.fill(bytes_of(element));
    return !readable.empty() || !writable.empty();
  }

  void run() {
    require(queue->add(readable, writable, this).has_value(), "a buffer did not fit");
    queue->publish();
    loop.run_until_idle();
    const auto used = queue->next_used();
    require(used.has_value(), "the device broke the ring");
    const bool broken = (transport->core().status() & virtio::spec::status::needs_reset) != 0;
    std::uint64_t room = 0;
    for (const auto& element : writable) room += element.length;
    require(broken == (room == 0), "broken exactly where there is no byte to answer in");
    require(broken != used->has_value(), "answered exactly where it is not broken");
    if (*used) check((*used)->length, room);
    check_guards();
  }

  void check(std::uint32_t length, std::uint64_t room) {
    const auto status = std::to_integer<unsigned>(bytes_of(writable.back()).back());
    require(status <= blk::spec::status::unsupp, "a status that means nothing");
    require(length == room, "the used length does not cover the status");
  }

  void check_guards() {
    for (const auto& list : {readable, writable}) {
      for (const auto& element : list)
        require(*(bytes_of(element).data() + element.length) == guard, "wrote beyond a piece");
    }
  }

  void place(std::vector<virtio::Element>& list, std::uint32_t length) {
    if (length == 0) return;
    std::fill_n(arena.data() + used_bytes, length + 1, guard);
    list.push_back({arena.iova() + used_bytes, length});
    used_bytes += length + 1;
  }
  MutableBytes bytes_of(const virtio::Element& element) {
    return {arena.data() + (memory::raw(element.address) - memory::raw(arena.iova())), element.length};
  }

  testing::ManualLoop loop;
  std::unique_ptr<blk::Device> device;
  std::optional<testing::LoopbackTransport> transport;
  std::optional<virtio::DriverQueue> queue;
  memory::DmaBuffer arena;
  std::size_t used_bytes = 0;
  std::vector<virtio::Element> readable, writable;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  Fuzzed fuzzed(input.byte());
  for (unsigned count = 0; !input.empty() && count < 64; ++count) {
    if (!fuzzed.lay_out(input)) continue;
    fuzzed.run();
    if ((fuzzed.transport->core().status() & virtio::spec::status::needs_reset) != 0) break;
  }
  return 0;
}
