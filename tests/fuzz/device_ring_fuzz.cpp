// A device's queue against a driver that writes whatever it likes into its ring, its tables and its memory map, while
// the device answers now or later, and is stopped, started and reset. Whatever comes: no access outside the driver's
// memory, no request longer than was offered, nothing published once the device has been reset, once it is broken only
// answers from before, and an end.
//
// Input: a byte of features (1 packed, 2 event index, 4 in order, 8 indirect, 16 poll, 32 contained faults), then steps: a
// byte (low four bits what, see Step) and its operands. Addresses are offsets into the driver's memory but for a high bit
// that leaves it.

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include <tests/support/device_rig.hpp>
#include "input.hpp"

namespace {

using namespace outboard;
using fuzz::Input;
using fuzz::require;
namespace flag = virtio::spec::descriptor;

constexpr std::uint16_t queue_size = 8;

testing::DeviceRig::Setup setup_of(std::uint32_t bits) {
  testing::DeviceRig::Setup setup{.packed = (bits & 1) != 0, .size = queue_size, .max_chain = 12};
  if ((bits & 2) == 0) setup.without.set(virtio::Feature::event_idx);
  if ((bits & 8) == 0) setup.without.set(virtio::Feature::indirect_desc);
  setup.options.in_order = (bits & 4) != 0;
  setup.options.poll = (bits & 16) != 0;
  setup.options.contains_faults = (bits & 32) != 0;
  return setup;
}

class Game {
 public:
  explicit Game(Input& input) : input_(input), rig_(setup_of(input.number(1))) {
    rig_.device.on_request = [this](virtio::Request request) { handle(std::move(request)); };
    rig_.run();
  }

  void play() {
    for (unsigned steps = 0; steps < 500 && !input_.empty(); ++steps) step();
    // However it went, a reset makes a device that works.
    rig_.device.kept.clear();
    rig_.core->write_status(0);
    rig_.loop.run_once();
    require(rig_.core->status() == 0, "a reset that does not end");
    if (!mapped_) rig_.map_driver();
    rig_.core->set_paused(false);
    rig_.driver().restart();
    rig_.negotiate();
    rig_.set_up_queue();
    rig_.driver_ok();
    answer_ = now;
    rig_.driver().chain().readable("x").writable(1).publish();
    turn();
    require(rig_.driver().used_count() == 1, "a device that does not work after a reset");
  }

 private:
  enum Step : std::uint8_t {
    descriptor,
    table_entry,
    avail_entry,
    avail_idx,
    right_chain,
    any_chain,
    kick,
    answer,
    how,
    map,
    stop,
    reset,
    events,
    bytes,
    pause,
    turns
  };
  enum How : std::uint8_t { now, later, never_enough, pieces };

  void turn() {
    rig_.core->kick(0);
    for (unsigned i = 0; i < 8; ++i) rig_.loop.run_once();
  }

  memory::Iova address() {
    const std::uint32_t value = input_.number(3);
    const memory::Iova inside = rig_.driver().address(0) + (value & 0x3fffff);
    return (value & 0x800000) != 0 ? memory::Iova{UINT64_MAX - (value & 0xffff)} : inside;
  }

  void handle(virtio::Request request) {
    require(request.readable_size() + request.writable_size() <= UINT64_C(1) << 32, "a buffer of more than 2^32 bytes");
    if (answer_ == later) return rig_.device.kept.push_back(std::move(request));
    finish(std::move(request));
  }

  void finish(virtio::Request request) {
    std::byte some[64];
    const auto readable = std::min<std::uint64_t>(sizeof some, request.readable_left());
    if (const auto read = request.read_bytes(std::span(some).first(readable)); !read)
      return request.violation(read.error());
    require(!request.read_bytes(std::span(some).first(1)) || request.readable_size() > sizeof some,
            "more than there is");
    if (answer_ == pieces) {
      const auto length = std::min<std::uint64_t>(request.writable_left(), 100);
      const auto found = request.writable_pieces(length);
      if (!found) return request.violation(found.error());
      for (const iovec& piece : *found) std::memset(piece.iov_base, 0x55, piece.iov_len);
      request.pieces_written(length);
    } else {
      const auto room = std::min<std::uint64_t>(request.writable_left(), answer_ == never_enough ? 1 : sizeof some);
      if (const auto written = request.write_zeros(room); !written) return request.violation(written.error());
    }
    require(request.written() <= request.writable_size(), "more written than there is room");
    request.complete();
  }

  void put_descriptor() {
    const auto index = static_cast<std::uint16_t>(input_.number(1) % queue_size);
    const std::uint64_t at = raw(address());
    const std::uint32_t length = input_.number(2);
    const auto flags = static_cast<std::uint16_t>(input_.number(2));
    const auto next = static_cast<std::uint16_t>(input_.number(1));
    if (rig_.driver().packed()) {
      rig_.driver().put_packed(index, {at, length, next, flags});
    } else {
      rig_.driver().put_descriptor(index, {at, length, flags, next});
    }
  }

  void put_table_entry() {
    const memory::Iova table = rig_.driver().address(0) + 0x200000 + 16 * (input_.number(1) % 16);
    const std::uint64_t at = raw(address());
    const std::uint32_t length = input_.number(2);
    const auto flags = static_cast<std::uint16_t>(input_.number(1));
    const auto next = static_cast<std::uint16_t>(input_.number(1));
    const virtio::spec::Descriptor entry{at, length, flags, next};
    std::memcpy(rig_.driver().at(table), &entry, sizeof entry);
  }

  void put_right_chain() {
    auto chain = rig_.driver().chain();
    const std::uint32_t shape = input_.number(1);
    if ((shape & 1) != 0) chain.indirect();
    for (unsigned i = 0; i < (shape >> 1 & 3); ++i) chain.readable_at(data(), 32);
    for (unsigned i = 0; i <= (shape >> 3 & 3); ++i) chain.writable_at(data() + 64, 32);
    chain.publish();
  }

  void put_any_chain() {
    auto chain = rig_.driver().chain();
    for (unsigned i = 0, count = 1 + input_.number(1) % 6; i < count; ++i) {
      const std::uint32_t what = input_.number(1);
      if ((what & 1) != 0) chain.indirect();
      const memory::Iova at = address();
      if ((what & 2) != 0) {
        chain.writable_at(at, input_.number(2));
      } else {
        chain.readable_at(at, input_.number(2));
      }
      if ((what & 4) != 0) chain.with(static_cast<std::uint16_t>(input_.number(2)));
      if ((what & 8) != 0) chain.next(static_cast<std::uint16_t>(input_.number(1)));
      if ((what & 16) != 0) chain.table_length(input_.number(3));
      if ((what & 32) != 0) chain.table_address(address());
    }
    chain.publish();
  }

  memory::Iova data() { return rig_.driver().address(0) + 0x300000; }

  void answer_one() {
    if (rig_.device.kept.empty()) return;
    const auto which = static_cast<std::ptrdiff_t>(input_.number(1) % rig_.device.kept.size());
    virtio::Request request = std::move(rig_.device.kept[static_cast<std::size_t>(which)]);
    rig_.device.kept.erase(rig_.device.kept.begin() + which);
    finish(std::move(request));
  }

  void change_map() {
    if (mapped_) {
      rig_.map.unmap(rig_.driver().mapping().range, [](const Status&) {});
    } else {
      rig_.map_driver();
    }
    mapped_ = !mapped_;
  }

  void stop_and_start() {
    const auto mode = (input_.number(1) & 1) != 0 ? virtio::StopMode::drain : virtio::StopMode::discard;
    std::optional<virtio::QueueState> state;
    rig_.core->stop_queue(0, mode, [&](const Result<virtio::QueueState>& result) {
      if (result) state = result.value();
    });
    for (unsigned i = 0; i < 4; ++i) rig_.loop.run_once();
    require(state.has_value(), "a stop that does not end");
    if (rig_.core->broken() || !state->enabled) return;
    require(rig_.core->start_queue(0, *state).has_value(), "a state that its own device refuses");
  }

  void reset_and_start() {
    rig_.core->write_status(0);
    require(rig_.core->status() == 0, "a reset that does not end");
    rig_.negotiate();
    rig_.set_up_queue();
    rig_.driver_ok();
    rig_.driver().restart();
  }

  void step() {
    const bool broken = rig_.core->broken();
    const std::size_t used = broken ? rig_.driver().used_count() : 0;
    const auto what = static_cast<Step>(input_.number(1) & 15);
    switch (what) {
      case descriptor:
        put_descriptor();
        break;
      case table_entry:
        put_table_entry();
        break;
      case avail_entry: {
        const auto index = static_cast<std::uint16_t>(input_.number(1));
        rig_.driver().set_avail_entry(index, static_cast<std::uint16_t>(input_.number(1)));
        break;
      }
      case avail_idx:
        if (!rig_.driver().packed()) {
          rig_.driver().set_avail_idx(static_cast<std::uint16_t>(rig_.driver().avail_idx() + input_.number(1) % 10));
        }
        break;
      case right_chain:
        put_right_chain();
        break;
      case any_chain:
        put_any_chain();
        break;
      case kick:
        turn();
        break;
      case answer:
        answer_one();
        break;
      case how:
        answer_ = static_cast<How>(input_.number(1) & 3);
        break;
      case map:
        change_map();
        break;
      case stop:
        stop_and_start();
        break;
      case reset:
        return reset_and_start();
      case events:
        rig_.driver().want_interrupt_at(static_cast<std::uint16_t>(input_.number(2)));
        break;
      case bytes: {
        const memory::Iova at = rig_.driver().address(input_.number(1) % 3) + input_.number(1);
        *rig_.driver().at(at) = static_cast<std::byte>(input_.number(1));
        return;  // it may have been the used index
      }
      case pause:
        rig_.core->set_paused((input_.number(1) & 1) != 0);
        break;
      case turns:
        rig_.loop.advance(std::chrono::milliseconds(input_.number(1) * 10));
        break;
    }
    // Answers from before are published when the queue stops or pauses, or its ring is unmapped. A packed ring's used
    // descriptors lie where the driver writes, too.
    if (what == stop || what == pause || what == map || rig_.driver().packed()) return;
    if (broken) require(rig_.driver().used_count() == used, "published by a broken device");
  }

  Input& input_;
  testing::DeviceRig rig_;
  How answer_ = now;
  bool mapped_ = true;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  Game(input).play();
  return 0;
}
