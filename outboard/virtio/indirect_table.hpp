#pragma once

#include <cstring>

#include <outboard/memory/shared.hpp>
#include <outboard/virtio/memory_view.hpp>
#include <outboard/virtio/ring_rule.hpp>

namespace outboard::virtio {

/// An indirect table while its entries are being copied out, each once.
class IndirectTable {
 public:
  static constexpr std::uint32_t entry_size = 16;

  explicit IndirectTable(MemoryView& memory) : memory_(&memory) {}

  /// Null, or the rule that the table breaks. The length is bounded by the caller before entries are read; that it is
  /// mapped is known after one look, however long it is.
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
      Words copy;  // not `entry`, which stays in registers if nobody takes its address
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

  /// When all has been read: whether what was read was the driver's.
  const RingRule* intact() const { return memory_->poisoned(range_) ? &ring_rule::poisoned : nullptr; }

 private:
  const RingRule* open_elsewhere();
  const RingRule* read_pieces(std::uint32_t index, MutableBytes entry);

  MemoryView* memory_;
  memory::IovaRange range_{};
  const std::byte* host_ = nullptr;
};

/// The rule that a failed lookup stands for.
const RingRule* rule_of(memory::Lookup lookup);

}  // namespace outboard::virtio
