// A journal, and the rings it speaks of, as they never were: a device runs and is killed, then words of the file and
// bytes of the ring are changed, by damage or by somebody who knows how to make checks fit. Whatever is found, the log is
// refused, or what it gives is a state that a device takes or refuses; each buffer in it once; and the device works after
// a reset. A log that nobody touched gives back what was in flight.
//
// Input: a byte of options (1 packed, 2 in order, 4 faults are contained), a byte of buffers (up to 8), a 16-bit mask of those
// that are answered before the end, then changes: a byte (low three bits what, see Change) and its operands.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <vector>

#include <outboard/journal/file.hpp>
#include <outboard/journal/internal/layout.hpp>
#include <tests/support/device_rig.hpp>
#include <tests/support/temp_dir.hpp>
#include "input.hpp"

namespace {

using namespace outboard;
using fuzz::Input;
using fuzz::require;
using testing::DeviceRig;
namespace layout = journal::layout;

constexpr std::uint16_t queue_size = 16;
constexpr unsigned max_changes = 64;
constexpr std::uint64_t life_place = 0x6c696665;  // as the journal has it

class Game {
 public:
  explicit Game(Input& input)
      : input_(input), options_(input.number(1)), dead_(setup(nullptr)), shape_(shape_of()), path_(dir().path("log")) {
    std::filesystem::remove(path_);
  }

  void play() {
    const unsigned in_flight = live();
    change();
    DeviceRig next(setup(nullptr));
    auto opened = journal::File::open(path_, shape_);
    require(touched_ || opened.has_value(), "a log that nobody touched is refused");
    if (!opened) return;
    journal_ = std::move(*opened);
    next.core->set_journal(*journal_);
    if (!next.map.map(dead_.driver().mapping())) std::abort();
    const auto state = journal_->recover(next.map);
    require(touched_ || state.has_value(), "what nobody touched cannot be recovered");
    if (!state) return;
    check(*state, in_flight);
    const auto again = journal_->recover(next.map);
    // Once the batch is settled a ring that was tampered with may not fit any more.
    require(again.has_value() ? *again == *state : touched_, "another state when it is asked for again");
    const Status restored = next.core->restore(*state);
    require(touched_ || restored.has_value(), "a state that nobody touched is not taken");
    for (unsigned i = 0; i < 32; ++i) next.loop.run_once();
    if (!touched_) require(next.device.requests == in_flight, "not all that was in flight came again");
    works_after_reset(next);
  }

 private:
  enum Change : std::uint8_t { byte, ring_byte, run, progress, entry, setup_field, header_byte, life };

  static testing::TempDir& dir() {
    static testing::TempDir folder;
    return folder;
  }
  DeviceRig::Setup setup(virtio::Journal* journal) const {
    DeviceRig::Setup made{.packed = (options_ & 1) != 0, .size = queue_size};
    made.options.in_order = (options_ & 2) != 0;
    made.options.contains_faults = (options_ & 4) != 0;
    made.options.journal = journal;
    return made;
  }
  journal::File::Shape shape_of() const {
    return {.instance = {std::byte{1}},
            .device_id = 63,
            .offered = dead_.core->offered(),
            .queue_sizes = {queue_size},
            .config_size = 8};
  }

  /// The life of a device; how many buffers were in flight at its end.
  unsigned live() {
    journal_ = journal::File::create(path_, shape_).value();
    dead_.core->set_journal(*journal_);
    dead_.device.on_request = dead_.device.keep();
    dead_.run();
    const unsigned buffers = input_.number(1) % (queue_size / 2 + 1);  // of two descriptors at most
    for (unsigned i = 0; i < buffers; ++i) {
      auto chain = dead_.driver().chain();
      if (i % 3 == 1) chain.indirect();
      chain.readable("abc").writable(8).publish();
    }
    dead_.core->kick(0);
    for (unsigned i = 0; i < 8; ++i) dead_.loop.run_once();
    const std::uint32_t answered = input_.number(2);
    unsigned left = buffers;
    for (unsigned i = 0; i < dead_.device.kept.size(); ++i) {
      if ((answered >> i & 1) == 0) continue;
      dead_.device.kept[i].complete();
      if ((options_ & 2) == 0) --left;
    }
    // In order nothing is used before what came first.
    for (unsigned i = 0; (options_ & 2) != 0 && i < buffers && (answered >> i & 1) != 0; ++i) --left;
    for (unsigned i = 0; i < 8; ++i) dead_.loop.run_once();
    journal_.reset();  // as a kill does, it leaves the file as it is
    return left;
  }

  void change() {
    std::vector<std::byte> file(std::filesystem::file_size(path_));
    std::ifstream(path_, std::ios::binary)
        .read(reinterpret_cast<char*>(file.data()), static_cast<std::streamsize>(file.size()));
    const auto places = layout::places(shape_.queue_sizes, shape_.config_size, true);
    for (unsigned i = 0; i < max_changes && !input_.empty(); ++i) {
      touched_ = true;
      change(file, places);
    }
    std::ofstream(path_, std::ios::binary | std::ios::in)
        .write(reinterpret_cast<const char*>(file.data()), static_cast<std::streamsize>(file.size()));
  }

  void change(std::vector<std::byte>& file, const layout::Places& places) {
    const std::size_t queue = places.queues[0];
    switch (static_cast<Change>(input_.number(1) & 7)) {
      case byte:
        file[input_.number(3) % file.size()] = static_cast<std::byte>(input_.number(1));
        return;
      case ring_byte: {
        const std::uint32_t at = input_.number(2);
        // Its three parts: 256 bytes of each.
        const auto area = dead_.driver().address(at >> 8 & 3 ? (at >> 8 & 3) - 1 : 0);
        dead_.driver().at(area)[at & 0xff] = static_cast<std::byte>(input_.number(1));
        return;
      }
      case run:
        return put(file, queue + offsetof(layout::Queue, run), layout::seal(input_.number(2), layout::run_place));
      case progress: {
        const auto from = static_cast<std::uint16_t>(input_.number(2));
        const auto to = static_cast<std::uint16_t>(input_.number(2));
        const auto count = static_cast<std::uint16_t>(input_.number(1));
        return put(file, queue + offsetof(layout::Queue, progress), layout::Progress{from, to, count}.word());
      }
      case entry:
        return change_entry(file, queue + layout::queue_entries(queue_size));
      case setup_field:
        return change_setup(file, queue);
      case header_byte:
        return change_header(file);
      case life:
        return put(file, places.control, layout::seal(input_.number(3), life_place));
    }
  }

  template <typename T>
  static void put(std::vector<std::byte>& file, std::size_t at, T value) {
    if (at + sizeof value <= file.size()) std::memcpy(file.data() + at, &value, sizeof value);
  }

  void change_entry(std::vector<std::byte>& file, std::size_t entries) {
    const std::size_t index = input_.number(1) % queue_size;
    const std::uint32_t order = input_.number(2);
    const std::uint64_t word = order == 0 ? 0 : layout::seal(order, index);
    if ((options_ & 1) == 0) return put(file, entries + index * sizeof(layout::SplitEntry), word);
    layout::PackedEntry made{};
    made.order = le64(word);
    made.address = le64(raw(dead_.driver().address(0)) + input_.number(3));
    made.length = le32(input_.number(2));
    made.flags = le16(static_cast<std::uint16_t>(input_.number(1)));
    made.next = le16(static_cast<std::uint16_t>(input_.number(2)));
    made.id = le16(static_cast<std::uint16_t>(input_.number(1)));
    made.head = le16(static_cast<std::uint16_t>(input_.number(1)));
    made.count = le16(static_cast<std::uint16_t>(input_.number(1)));
    std::uint64_t words[4];
    std::memcpy(words, &made, sizeof words);
    made.check = le16(layout::fold16(words[1], words[2], words[3], index));
    put(file, entries + index * sizeof made, made);
  }

  void change_setup(std::vector<std::byte>& file, std::size_t queue) {
    layout::Queue made{};
    std::memcpy(&made, file.data() + queue, sizeof made);
    switch (input_.number(1) & 7) {
      case 0:
        made.size = le16(static_cast<std::uint16_t>(input_.number(2)));
        break;
      case 1:
        made.format = le16(static_cast<std::uint16_t>(input_.number(2)));
        break;
      case 2:
        made.descriptors = le64(raw(dead_.driver().address(0)) + input_.number(3));
        break;
      case 3:
        made.driver = le64(raw(dead_.driver().address(0)) + input_.number(3));
        break;
      default:
        made.device = le64(raw(dead_.driver().address(0)) + input_.number(3));
        break;
    }
    made.checksum = le32(layout::crc32c(as_bytes_of(made).first(offsetof(layout::Queue, progress))));
    put(file, queue, made);
  }

  void change_header(std::vector<std::byte>& file) {
    constexpr std::size_t size = sizeof(layout::Header) + sizeof(le16);
    file[input_.number(2) % size] = static_cast<std::byte>(input_.number(1));
    layout::Header made{};
    std::memcpy(&made, file.data(), sizeof made);
    made.checksum = 0;
    made.checksum = layout::crc32c(Bytes(file).subspan(sizeof made, sizeof(le16)), layout::crc32c(as_bytes_of(made)));
    put(file, 0, made);
  }

  void check(const virtio::DeviceState& state, unsigned in_flight) const {
    require(state.queues.size() == 1, "the number of queues");
    const auto& queue = state.queues[0];
    require(queue.in_flight.size() <= queue_size, "more in flight than there is room");
    require(touched_ || queue.in_flight.size() == in_flight, "not what was in flight");
    std::vector<bool> seen(queue_size);
    for (const auto& buffer : queue.in_flight) {
      require(buffer.head < queue_size && !seen[buffer.head], "a head that is none, or twice");
      seen[buffer.head] = true;
    }
  }

  /// Whoever restored it, a reset makes a device that works.
  void works_after_reset(DeviceRig& rig) {
    rig.device.kept.clear();
    rig.core->write_status(0);
    for (unsigned i = 0; i < 4; ++i) rig.loop.run_once();
    require(rig.core->status() == 0, "a reset that does not end");
    rig.map.clear([](const Status&) {});
    rig.driver().restart();
    rig.run();
    rig.device.on_request = testing::ScriptedDevice::echo;
    rig.driver().chain().readable("x").writable(1).publish();
    rig.core->kick(0);
    for (unsigned i = 0; i < 8; ++i) rig.loop.run_once();
    require(rig.driver().used_count() == 1, "a device that does not work after a reset");
  }

  Input& input_;
  std::uint32_t options_;
  DeviceRig dead_;
  journal::File::Shape shape_;
  std::string path_;
  std::unique_ptr<journal::File> journal_;
  bool touched_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  Game(input).play();
  return 0;
}
