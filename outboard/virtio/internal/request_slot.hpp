#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include <sys/uio.h>

#include <outboard/virtio/internal/memory_view.hpp>
#include <outboard/virtio/internal/ring_rule.hpp>
#include <outboard/virtio/queue_state.hpp>
#include <outboard/virtio/request.hpp>

namespace outboard::virtio {

class DeviceQueue;

/// A descriptor of a buffer, copied out of the ring and checked as far as that goes without its memory.
struct ChainElement {
  memory::Iova address{};
  std::byte* host = nullptr;  ///< where it is, if that is one piece; for the slot's generation of the map only
  std::uint32_t length = 0;
};

/// The elements of one buffer: the readable ones, then the writable ones. Keeps its storage from one use to the next.
class Chain {
 public:
  static constexpr std::uint64_t max_bytes = UINT64_C(1) << 32;
  /// A chain of at most so many bytes does not count in DeviceQueue::max_pass_bytes.
  static constexpr std::uint64_t small_bytes = UINT64_C(8) << 10;

  /// Sums over the elements added so far. The caller of add() keeps it in a local variable, so that it stays in registers;
  /// RequestSlot::set_chain() stores it.
  struct Sum {
    std::uint32_t count = 0;
    std::uint32_t readable = 0;
    std::uint64_t readable_bytes = 0;
    std::uint64_t writable_bytes = 0;
    bool unresolved = false;
  };

  Chain() { elements_ = inline_.data(); }
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;

  /// Null, or the rule that the element breaks. `limit`: the elements that a chain may have. The element's memory is looked
  /// up if the chain is small and one compare finds it; otherwise the sum becomes `unresolved`.
  const RingRule* add(Sum& sum, std::uint64_t address, std::uint32_t length, bool writable, std::uint32_t limit,
                      MemoryView& memory) {
    if (sum.count >= limit) return &ring_rule::chain_too_long;
    const memory::Iova at{address};
    std::byte* host = nullptr;
    if (writable) {
      sum.writable_bytes += length;
      host = memory.host(at, length, memory::Access::write);
    } else {
      // VIRTIO 1.4, 2.7.4.2 and 2.8.17: "The driver MUST place any device-writable descriptor elements after any
      // device-readable descriptor elements."
      if (sum.readable != sum.count) return &ring_rule::readable_after_writable;
      sum.readable_bytes += length;
      ++sum.readable;
      host = memory.host(at, length, memory::Access::read);
    }
    if (sum.readable_bytes + sum.writable_bytes > small_bytes) [[unlikely]] {
      // VIRTIO 1.4, 2.7.5.2: "Drivers MUST NOT add a descriptor chain longer than 2^32 bytes in total".
      if (sum.readable_bytes + sum.writable_bytes > max_bytes) return &ring_rule::buffer_too_large;
      host = nullptr;
    }
    if (sum.count == capacity_) [[unlikely]]
      grow();
    sum.unresolved |= host == nullptr;
    elements_[sum.count++] = {at, host, length};
    return nullptr;
  }
  void set(const Sum& sum) {
    count_ = sum.count;
    readable_ = sum.readable;
    unresolved_ = sum.unresolved;
  }

  std::uint32_t count() const { return count_; }
  std::uint32_t readable_count() const { return readable_; }
  ChainElement& operator[](std::uint32_t index) { return elements_[index]; }
  const ChainElement& operator[](std::uint32_t index) const { return elements_[index]; }
  memory::Access access(std::uint32_t index) const {
    return index < readable_ ? memory::Access::read : memory::Access::write;
  }

  /// Whether some element's memory has still to be looked up.
  bool unresolved() const { return unresolved_; }
  /// Whether its elements are in storage of their own.
  bool is_long() const { return capacity_ != inline_count; }
  /// Elements in that storage: a hostile driver decides how many, so a queue bounds their sum.
  std::uint32_t spilled() const { return is_long() ? count_ : 0; }
  /// Makes the elements inline again for the next chain. Storage that only an unusually long chain needed is freed.
  void trim() {
    if (is_long()) release();
  }

 private:
  static constexpr std::uint32_t inline_count = 4;
  static constexpr std::uint32_t keep = 256;

  void grow();
  void release();

  std::uint32_t count_ = 0;
  std::uint32_t readable_ = 0;
  bool unresolved_ = false;
  std::uint32_t capacity_ = inline_count;
  ChainElement* elements_ = nullptr;
  std::array<ChainElement, inline_count> inline_;
  std::vector<ChainElement> spill_;
};

/// The whole of a buffer in memory of our own, where the driver's is reachable only by messages.
struct Bounce {
  std::vector<std::byte> bytes;  ///< the readable part, then the writable one
  std::uint32_t element = 0;  ///< being transferred
  std::uint64_t at = 0;  ///< in bytes: where that element is
};

/// How a token was given back.
enum class RequestAnswer : std::uint8_t {
  complete,
  drop,  ///< destroyed unanswered
  violation,  ///< the device has been broken by it
};

/// One buffer on its way through the device.
struct RequestSlot : RequestProgress {
  enum class State : std::uint8_t {
    free,
    delivered,  ///< a token is out
    transferring,  ///< being fetched or written back
    done,  ///< answered, and waiting for its turn or for the ring's memory
    given_up,  ///< the token has gone without an answer that counts; the buffer stays in flight
  };
  /// What has to be done when it is answered, besides freeing the slot.
  enum class Care : std::uint8_t {
    none,
    pins,  ///< of pieces that were handed out; none again when they are unpinned
    storage,  ///< a long chain, or a copy of the buffer
    malformed,  ///< as storage; its chain broke a rule, so it goes back without having been a request
  };
  /// Pieces that were handed out, and the map that they were found on.
  struct EarlierPin {
    MemoryView::Epoch* epoch;
    memory::Access access;
  };

  DeviceQueue* queue = nullptr;
  State state = State::free;
  Care care = Care::none;
  bool indirect = false;  ///< packed: the chain was one indirect descriptor, `table`
  std::uint16_t head = 0;  ///< split: descriptor index. Packed: first slot in the ring
  std::uint16_t id = 0;  ///< what the used entry will name
  std::uint16_t ring_count = 1;  ///< descriptors in the ring; 0: not known which buffer this is
  std::uint64_t order = 0;  ///< counts up with each pop
  std::uint64_t generation = 0;  ///< of the map that `host` in the elements is good for
  std::array<MemoryView::Epoch*, 2> pins{};  ///< of the readable and of the writable pieces that were handed out last
  Chain chain;
  ChainElement table;
  std::unique_ptr<Bounce> bounce;
  std::vector<iovec> readable_pieces;
  std::vector<iovec> writable_pieces;
  std::uint64_t pieces_left = 0;  ///< writable bytes handed out as pieces and not reported yet
  std::vector<EarlierPin> earlier_pins;  ///< of pieces handed out before `pins`, and found on another map

  /// What a ring finds out about a buffer.
  void set_buffer(std::uint16_t at, std::uint16_t buffer_id, std::uint16_t count) {
    head = at;
    id = buffer_id;
    ring_count = count;
    indirect = false;
  }
  /// The rule leaves nothing that could be given back.
  const RingRule* set_no_buffer(const RingRule& rule) {
    ring_count = 0;
    return &rule;
  }
  void set_chain(const Chain::Sum& sum) {
    chain.set(sum);
    readable_bytes = sum.readable_bytes;
    writable_bytes = sum.writable_bytes;
  }
  std::uint64_t bytes() const { return readable_bytes + writable_bytes; }
  bool has_pins() const { return pins[0] != nullptr || pins[1] != nullptr; }
  /// Sets the cursors to the start of their parts.
  void rewind() {
    read = {};
    write = {chain.readable_count(), 0, 0};
    pieces_left = 0;
  }
  /// VIRTIO 1.4, 2.7.8.2: "The device MUST write at least len bytes to descriptor, beginning at the first
  /// device-writable buffer, prior to updating the used idx." So the length is never more than was written; it has 32 bits.
  std::uint32_t written_length() const {
    constexpr std::uint64_t max = std::numeric_limits<std::uint32_t>::max();
    return static_cast<std::uint32_t>(write.done < max ? write.done : max);
  }
  UsedBuffer used() const {
    return {.head = head,
            .id = id,
            .ring_count = ring_count,
            .filled = write.done == writable_bytes,
            .length = written_length()};
  }
};

}  // namespace outboard::virtio
