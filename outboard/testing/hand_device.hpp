#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <outboard/testing/fake_transport.hpp>
#include <outboard/virtio/ring.hpp>

namespace outboard::testing {

/// The device's end of a queue, driven by the test, valid or hostile: takes chains from the ring and writes whatever used
/// entries the test gives. Implemented from the specification's tables, independently of the code under test. It expects a
/// valid driver, and throws otherwise.
class HandDevice {
 public:
  struct Element {
    memory::Iova address{};
    std::uint32_t length = 0;
    bool writable = false;
  };
  struct Chain {
    std::uint16_t id = 0;  ///< split: head
    std::uint16_t slots = 1;  ///< ring slots it takes
    bool indirect = false;
    std::vector<Element> elements;
  };

  HandDevice(FakeTransport& transport, unsigned queue, bool packed);

  /// The next chain that the driver made available, if there is one.
  std::optional<Chain> pop();

  /// Writes one used entry and publishes it. `advance`: how far the position moves (split: buffers, packed: slots); for a batch
  /// in order that is more than one buffer.
  void use(std::uint32_t id, std::uint32_t length, unsigned advance);
  void use(const Chain& chain, std::uint32_t length) { use(chain.id, length, packed_ ? chain.slots : 1); }

  /// Sets whether the driver should ring the doorbell (without EVENT_IDX).
  void suppress_kicks(bool suppress);
  /// With EVENT_IDX: asks for a kick when `ahead` more buffers are available after the next one to be popped.
  void want_kick(unsigned ahead = 0);

  /// Whether the driver asks for an interrupt; with EVENT_IDX: for the next used buffer.
  bool interrupt_wanted(bool event_idx) const;

  // For what no sane device does.
  void set_used_index(std::uint16_t index);  ///< split
  std::uint16_t used_index() const { return used_index_; }
  std::byte* descriptors() const { return descriptors_; }
  std::byte* driver_area() const { return driver_; }
  std::byte* device_area() const { return device_; }
  std::uint16_t size() const { return size_; }

 private:
  std::optional<Chain> pop_split();
  std::optional<Chain> pop_packed();
  void read_table(Chain& chain, memory::Iova table, std::uint32_t bytes) const;

  FakeTransport& transport_;
  bool packed_;
  std::uint16_t size_;
  std::byte *descriptors_, *driver_, *device_;
  std::uint16_t next_avail_ = 0, used_index_ = 0;  // split
  virtio::PackedCursor avail_cursor_{}, used_cursor_{};  // packed
};

}  // namespace outboard::testing
