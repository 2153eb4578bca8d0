#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include <outboard/memory/iova.hpp>
#include <outboard/virtio/ring.hpp>

namespace outboard::virtio::crash {

/// Of a ring, and of what its driver does with it.
struct Config {
  bool packed = false;
  bool indirect = false;
  bool in_order = false;
  std::uint16_t size = 8;
  std::uint16_t first = 0;  ///< split: where the indices begin, as if the device had come from elsewhere

  std::string name() const {
    return std::string(packed ? "Packed" : "Split") + std::to_string(size) + (indirect ? "Indirect" : "") +
           (in_order ? "InOrder" : "") + (first != 0 ? "From" + std::to_string(first) : "");
  }
};

/// What a request with this number is answered with, and how many bytes of it the device writes: some buffers are not
/// filled.
constexpr std::uint64_t answer_to(std::uint32_t number) { return (number + 1) * UINT64_C(0x9e3779b97f4a7c15); }
constexpr std::uint32_t answer_length(std::uint32_t number) { return number % 4 == 0 ? 4 : 8; }

/// A driver that outlives its device: a value, so that it can go on with a copy of its memory from any moment. It numbers
/// its requests and throws when an answer is not what it has a right to: of a buffer that is not the device's, out of
/// order, or without the bytes that belong to it. It reuses what is answered, so rings go round and buffers overtake.
class CrashDriver {
 public:
  static constexpr memory::Iova base{0x100000};
  static constexpr std::size_t memory_size = 0x3000;

  CrashDriver(const Config& config, std::byte* memory);
  /// The same driver, with a copy of its memory.
  CrashDriver on(std::byte* memory) const;

  memory::Iova address(unsigned area) const { return base + offset(area); }

  /// Makes up to `count` more requests available. Returns how many there was room for.
  unsigned offer(unsigned count);
  /// Takes what was used. Returns how many requests that answers.
  unsigned take();
  std::size_t outstanding() const { return order_.size(); }
  std::uint32_t answered() const { return answered_; }
  /// After a reset of the device: nothing is outstanding, and the ring is new.
  void restart();

 private:
  struct Buffer {
    bool busy = false;
    std::uint32_t number = 0;
    std::uint16_t descriptors = 0;
  };

  static std::size_t offset(unsigned area) { return area * std::size_t{0x400}; }
  std::byte* area(unsigned which) const { return memory_ + offset(which); }
  std::size_t table(std::uint16_t slot) const { return 0x1000 + slot * std::size_t{64}; }
  std::size_t data(std::uint16_t slot) const { return 0x2000 + slot * std::size_t{32}; }
  /// Elements of a request: its number, then one place or two for the answer.
  static std::uint16_t elements(std::uint32_t number) { return number % 3 == 0 ? 3 : 2; }
  std::uint16_t head(std::uint16_t slot) const { return static_cast<std::uint16_t>(slot * (config_.indirect ? 1 : 3)); }

  struct Element {
    std::uint64_t address;
    std::uint32_t length;
    std::uint16_t flags;
  };
  std::vector<Element> elements_of(std::uint16_t slot, std::uint32_t number) const;
  void write_table(std::uint16_t slot, const std::vector<Element>& elements);
  void put_split(std::uint16_t slot, const std::vector<Element>& elements);
  void put_packed(std::uint16_t slot, const std::vector<Element>& elements);
  bool used_id(std::uint32_t& id, std::uint32_t& length) const;
  void advance(std::uint16_t descriptors);
  void complete(std::uint16_t slot, std::uint32_t length, bool told);

  Config config_;
  std::byte* memory_;
  std::vector<Buffer> buffers_;
  std::vector<std::uint16_t> free_;
  std::deque<std::uint16_t> order_;  ///< outstanding, as they were made available
  std::uint32_t next_number_ = 0;
  std::uint32_t answered_ = 0;
  std::uint32_t in_ring_ = 0;  ///< packed: descriptors
  std::uint16_t avail_ = 0, used_ = 0;
  PackedCursor avail_cursor_{}, used_cursor_{};
};

}  // namespace outboard::virtio::crash
