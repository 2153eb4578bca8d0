#pragma once

#include <cstring>

#include <outboard/memory/internal/shared.hpp>
#include <outboard/virtio/internal/memory_view.hpp>
#include <outboard/virtio/internal/ring_rule.hpp>

namespace outboard::virtio {

/// An indirect table while its entries are copied out, each once.
///
/// A table may be longer than the queue; its length is limited by DeviceRingRules::chain_limit: Identity::max_chain of the device,
/// or the queue's maximum size where that is larger. A longer chain breaks the queue with ring_rule::chain_too_long. Split ring:
/// Chain::add() counts the elements of the chain, and entries of the table that the chain does not use do not count. Packed
/// ring: PackedDeviceRing::parse_table() compares the length of the table, all of whose entries are the chain, before it calls open().
class IndirectTable {
 public:
  static constexpr std::uint32_t entry_size = 16;

  explicit IndirectTable(MemoryView& memory) : memory_(&memory) {}

  /// Null, or the rule that the table breaks. Does not limit the length (see above): one lookup finds out whether the
  /// whole table is mapped, however long it is.
  const RingRule* open(std::uint64_t address, std::uint32_t length) {
    // VIRTIO 1.4, 2.7.5.3: "the len of the descriptor [...] a multiple of 16 bytes"; an empty table has no first entry.
    if (length == 0 || length % entry_size != 0) return &ring_rule::table_size;
    range_ = {memory::Iova{address}, length};
    host_ = memory_->host(range_.start, length, memory::Access::read);
    if (host_ != nullptr) [[likely]]
      return nullptr;
    return open_elsewhere();
  }
  std::uint32_t entries() const { return static_cast<std::uint32_t>(range_.size / entry_size); }

  /// Copies entry `index`, which is less than entries().
  template <typename Words>
    requires(sizeof(Words) == entry_size)
  const RingRule* read(std::uint32_t index, Words& entry) {
    if (host_ == nullptr) [[unlikely]] {
      Words copy;  // not `entry`, which stays in registers if its address is not taken
      const RingRule* rule = read_pieces(index, as_writable_bytes_of(copy));
      entry = copy;
      return rule;
    }
    const std::byte* at = host_ + std::size_t{index} * entry_size;
    // S3, P2. VIRTIO asks for no alignment of a table; two 8-byte loads need one.
    if (reinterpret_cast<std::uintptr_t>(at) % alignof(std::uint64_t) == 0) [[likely]] {
      entry = memory::load16<Words>(at);
      return nullptr;
    }
    Words copy;
    std::memcpy(&copy, at, entry_size);
    std::atomic_signal_fence(std::memory_order_seq_cst);  // not fetched again when a field of the copy is used
    entry = copy;
    return nullptr;
  }

  /// After the last read: null, or ring_rule::poisoned if the file behind the table has shrunk and what was read is invalid.
  const RingRule* intact() const { return memory_->poisoned(range_) ? &ring_rule::poisoned : nullptr; }

 private:
  const RingRule* open_elsewhere();
  const RingRule* read_pieces(std::uint32_t index, MutableBytes entry);

  MemoryView* memory_;
  memory::IovaRange range_{};
  const std::byte* host_ = nullptr;
};

/// The rule that is broken when a lookup fails with `lookup`.
const RingRule* rule_of(memory::Lookup lookup);

}  // namespace outboard::virtio
