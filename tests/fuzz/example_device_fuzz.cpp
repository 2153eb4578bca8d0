// The example device against whatever a driver may put into its buffers, of requests and for events, in any framing. The
// rings are right (they have targets of their own). A model says what must become of each buffer (specification.md beside
// the device).
//
// Input: one byte of options, then steps, each a byte and what it needs:
//   0  a request, 1  a buffer for events: a byte with the number of readable (bits 0-1) and writable (bits 2-3) pieces, a
//      byte for the length of each, the bytes of the readable ones (missing ones are zero)
//   2  a new limit of 4 bytes        3  a reset, and the driver starts again

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <outboard/base/endian.hpp>
#include <outboard/devices/example/device.hpp>
#include <outboard/testing/loopback_transport.hpp>
#include <outboard/virtio/driver_queue.hpp>
#include <outboard/virtio/spec.hpp>
#include "input.hpp"

namespace {

using namespace outboard;
using fuzz::Input;
using fuzz::require;
namespace spec = example::spec;

constexpr std::size_t arena_size = 1 << 20;
constexpr unsigned max_steps = 200;
constexpr std::byte guard{0xa5};

struct Buffer {
  std::vector<MutableBytes> pieces[2];  // readable, writable
  std::vector<virtio::Element> elements[2];

  std::vector<std::byte> bytes(unsigned part) const {
    std::vector<std::byte> all;
    for (const auto& piece : pieces[part]) all.insert(all.end(), piece.begin(), piece.end());
    return all;
  }
  bool empty() const { return elements[0].empty() && elements[1].empty(); }
};

class Fuzzed {
 public:
  explicit Fuzzed(unsigned options)
      : packed_((options & 1) != 0), accept_((options & 4) != 0), own_loops_((options & 8) != 0) {
    example::Device::Options device;
    if ((options & 2) != 0) device.limit = limit_;
    device_ = example::Device::create(device).value();
    testing::LoopbackTransport::Options transport{.packed = packed_};
    if (own_loops_) transport.queue_loops = {&loops_[0], &loops_[1]};
    transport_.emplace(*device_, loop_, transport);
    offered_ = device.limit.has_value();
    arena_ = transport_->dma().allocate(arena_size).value();
    start();
  }
  ~Fuzzed() { static_cast<void>(transport_->reset()); }

  void start() {
    queues_.clear();
    kept_.clear();
    used_bytes_ = 0;
    missed_ = 0;
    virtio::Features features = transport_->core().offered();
    if (!accept_) features.clear(example::feature::limit);
    const auto agreed = virtio::negotiate(*transport_, features);
    limited_ = agreed.value().has(example::feature::limit);
    for (unsigned i = 0; i < (limited_ ? 2U : 1U); ++i)
      queues_.push_back(virtio::DriverQueue::create(*transport_, i, *agreed, {.size = 64}).value());
    require(virtio::start_device(*transport_).has_value(), "the device does not start");
  }
  /// False: the device is broken, as it should be.
  bool step(Input& input) {
    switch (input.byte() % 4) {
      case 0:
        return request(input);
      case 1:
        give(input);
        return true;
      case 2:
        change_limit(input.number(4));
        return true;
      default:
        require(transport_->reset().has_value(), "the device does not come out of a reset");
        start();
        check_config();
        return true;
    }
  }

 private:
  Buffer& lay_out(Input& input, std::deque<Buffer>& where) {
    Buffer& buffer = where.emplace_back();
    const unsigned shape = input.byte();
    for (unsigned part = 0; part < 2; ++part) {
      for (unsigned i = 0; i < (shape >> 2 * part & 3); ++i) {
        const std::size_t length = input.byte() % 24;
        if (length == 0) continue;
        require(used_bytes_ + length + 1 <= arena_size, "the arena is too small");
        std::fill_n(arena_.data() + used_bytes_, length + 1, guard);
        buffer.pieces[part].emplace_back(arena_.data() + used_bytes_, length);
        buffer.elements[part].push_back({arena_.iova() + used_bytes_, static_cast<std::uint32_t>(length)});
        used_bytes_ += length + 1;
      }
    }
    for (const auto& piece : buffer.pieces[0])
      std::ranges::generate(piece, [&] { return static_cast<std::byte>(input.byte()); });
    return buffer;
  }

  void add(unsigned queue, Buffer& buffer) {
    require(queues_[queue].add(buffer.elements[0], buffer.elements[1], &buffer).has_value(), "a buffer did not fit");
    queues_[queue].publish();
    transport_->pump();
  }
  std::optional<std::uint32_t> used(unsigned queue, const Buffer& buffer) {
    const auto next = queues_[queue].next_used();
    require(next.has_value(), "the device has broken the ring");
    if (!*next) return std::nullopt;
    require((*next)->cookie == &buffer, "buffers are used out of order");
    return (*next)->length;
  }
  bool broken() { return (transport_->core().status() & virtio::spec::status::needs_reset) != 0; }

  bool request(Input& input) {
    std::deque<Buffer> own;
    Buffer& buffer = lay_out(input, own);
    if (buffer.empty()) return true;
    const auto readable = buffer.bytes(0), before = buffer.bytes(1);
    add(example::request_queue, buffer);
    const std::size_t size = spec::reply_size(limited_);
    const bool fits = readable.size() >= sizeof(spec::Request) && before.size() >= size;
    require(broken() == !fits, "D-EX-6: broken exactly where a part is too short");
    const auto length = used(example::request_queue, buffer);
    require(length.has_value() == fits, "D-EX-6: used exactly where both parts are long enough");
    check_guards(buffer);
    const auto after = buffer.bytes(1);
    if (!fits) {
      require(after == before, "D-EX-6: written to a buffer that is not used");
      return false;
    }
    require(length == size, "D-EX-2: the used length");
    check_reply(readable, before, after);
    return true;
  }

  void check_reply(const std::vector<std::byte>& readable, const std::vector<std::byte>& before,
                   const std::vector<std::byte>& after) {
    ByteReader reader(readable);
    const std::uint32_t value = reader.read<le32>().value();
    const bool refuse = limited_ && value > limit_;
    const spec::Reply reply{.result = refuse ? value : value + 1,
                            .status = refuse ? spec::status::range : spec::status::ok};
    const Bytes expected = as_bytes_of(reply).first(spec::reply_size(limited_));
    require(std::ranges::equal(expected, Bytes(after).first(expected.size())), "D-EX-1, D-EX-7, D-EX-18: the reply");
    require(std::ranges::equal(Bytes(before).subspan(expected.size()), Bytes(after).subspan(expected.size())),
            "D-EX-4: bytes beyond the reply");
    if (refuse) expect_event(value);
    for (const Buffer& buffer : kept_)
      require(std::ranges::all_of(buffer.bytes(1), [](std::byte byte) { return byte == guard; }),
              "D-EX-19: a buffer for events is written to and not used");
  }

  void expect_event(std::uint32_t value) {
    const auto miss = [this] { missed_ += missed_ != UINT32_MAX ? 1 : 0; };
    if (kept_.empty()) return miss();
    const Buffer& buffer = kept_.front();
    const auto length = used(example::event_queue, buffer);
    require(length.has_value(), "D-EX-19: an event that is not told");
    check_guards(buffer);
    const auto bytes = buffer.bytes(1);
    const bool fits = bytes.size() >= sizeof(spec::Event);
    require(length == (fits ? sizeof(spec::Event) : 0), "D-EX-11, D-EX-19: the used length of an event");
    spec::Event event{.type = spec::event::limit_hit, .missed = missed_, .value = value, .reserved = 0};
    const Bytes expected = as_bytes_of(event).first(fits ? sizeof event : 0);
    require(std::ranges::equal(expected, Bytes(bytes).first(expected.size())), "D-EX-10, D-EX-19: the event");
    require(std::ranges::all_of(Bytes(bytes).subspan(expected.size()), [](std::byte byte) { return byte == guard; }),
            "bytes beyond the event");
    if (fits) {
      missed_ = 0;
    } else {
      miss();
    }
    kept_.pop_front();
  }

  void give(Input& input) {
    if (!limited_ || kept_.size() >= 8) return;
    Buffer& buffer = lay_out(input, kept_);
    if (buffer.empty()) return kept_.pop_back();
    add(example::event_queue, buffer);
    require(!broken(), "D-EX-11: a buffer for events breaks nothing");
  }

  void change_limit(std::uint32_t limit) {
    if (!offered_) return;
    epoch_ += limit != limit_ ? 1 : 0;
    limit_ = limit;
    require(device_->set_limit(limit).has_value(), "the limit cannot be changed");
    check_config();
  }
  void check_config() {
    if (!offered_) return;
    spec::Config config;
    require(transport_->read_config(0, as_writable_bytes_of(config)).has_value(), "the configuration cannot be read");
    require(config.limit == limit_ && config.reserved == 0 && config.epoch == epoch_, "D-EX-8, D-EX-12, D-EX-17");
  }
  static void check_guards(const Buffer& buffer) {
    for (const auto& part : buffer.pieces)
      for (const auto& piece : part) require(*(piece.data() + piece.size()) == guard, "written beyond a piece");
  }

  bool packed_, accept_, own_loops_;
  bool offered_ = false, limited_ = false;
  std::uint32_t limit_ = 100;
  std::uint64_t epoch_ = 0;
  std::uint32_t missed_ = 0;
  testing::ManualLoop loop_, loops_[2];
  std::unique_ptr<example::Device> device_;
  std::optional<testing::LoopbackTransport> transport_;
  memory::DmaBuffer arena_;
  std::vector<virtio::DriverQueue> queues_;
  std::deque<Buffer> kept_;  // with the device, for events
  std::size_t used_bytes_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  Fuzzed fuzzed(input.byte());
  for (unsigned count = 0; !input.empty() && count < max_steps; ++count)
    if (!fuzzed.step(input)) break;
  return 0;
}
