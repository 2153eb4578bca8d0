#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/journal/internal/layout.hpp>
#include <outboard/memory/internal/shared.hpp>
#include <outboard/virtio/queue_state.hpp>
#include <outboard/virtio/ring.hpp>

namespace outboard::journal {

/// The content of a queue's region of a journal, checked as far as possible without the ring.
struct QueueRecord {
  struct Entry {
    std::uint64_t order = 0;  ///< number of the pop
    std::uint16_t entry = 0;  ///< where it is in the region
    virtio::InFlight buffer;
  };
  bool packed = false;
  virtio::QueueState ring;  ///< size and addresses
  layout::Progress progress;
  std::vector<std::uint16_t> batch;  ///< entries of the buffers that are being published
  std::vector<Entry> entries;  ///< in the order they were popped, the batch's too

  /// Whether the buffer in `entry` belongs to the batch.
  bool in_batch(std::uint16_t entry) const;
};

/// One queue's region of a journal, written while the queue runs: docs/journal.md, and rows J1 to J5 of docs/memory-ordering.md. The
/// calls are those of Journal, on the same threads.
class QueueRegion {
 public:
  /// `region`: zeroed, or written by another QueueRegion, of this process or one before it.
  QueueRegion(std::byte* region, std::uint16_t max_size);

  /// The queue runs in `epoch`, from `state`. Stores nothing if the region has this content already; otherwise the region is
  /// invalid until everything is stored.
  void start(const virtio::QueueState& state, bool packed, std::uint32_t epoch);
  /// Nothing is in flight.
  void clear();

  void popped(const virtio::InFlight& buffer) {
    if (packed_) return popped_packed(buffer);
    // J1: before the device receives the buffer.
    split_entry(buffer.head).store(layout::seal(++order_, buffer.head), std::memory_order_release);
  }
  void publishing(std::span<const virtio::UsedBuffer> batch, std::uint16_t next_used, bool used_wrap);
  void published(std::span<const virtio::UsedBuffer> batch, std::uint16_t next_used, bool used_wrap);

  /// The content of the region in `epoch`; nullopt: the queue does not run. EBADMSG: the region is damaged.
  Result<std::optional<QueueRecord>> read(std::uint32_t epoch) const;
  /// Completes the publishing of a batch after a recovery. `published`: its entries are cleared; otherwise its buffers stay in flight.
  void settle(const QueueRecord& record, bool published);

 private:
  using Progress = layout::Progress;

  memory::Shared<le64> word(std::size_t offset) const { return memory::Shared<le64>(region_ + offset); }
  memory::Shared<le32> word32(std::size_t offset) const { return memory::Shared<le32>(region_ + offset); }
  memory::Shared<le16> word16(std::size_t offset) const { return memory::Shared<le16>(region_ + offset); }
  memory::Shared<le16> batch_entry(std::size_t index) const {
    return word16(sizeof(layout::Queue) + index * sizeof(le16));
  }
  memory::Shared<le64> split_entry(std::uint16_t head) const { return word(entries_ + head * sizeof(le64)); }
  /// One of the four words of an entry.
  memory::Shared<le64> packed_entry(std::uint16_t entry, unsigned which) const {
    return word(entries_ + entry * sizeof(layout::PackedEntry) + which * sizeof(le64));
  }
  memory::Shared<le64> order_of(bool packed, std::uint16_t entry) const {
    return packed ? packed_entry(entry, 0) : split_entry(entry);
  }
  void store_progress(const Progress& progress) const;
  std::uint16_t cursor(std::uint16_t next_used, bool used_wrap) const {
    return packed_ ? virtio::PackedCursor{next_used, used_wrap}.off_wrap() : next_used;
  }

  void popped_packed(const virtio::InFlight& buffer);
  std::uint16_t take_entry(const virtio::UsedBuffer& buffer);
  void write(const virtio::QueueState& state, std::uint32_t epoch);
  void adopt(const QueueRecord& record);
  bool says(const virtio::QueueState& state, bool packed, std::uint32_t epoch) const;

  Status read_head(std::uint32_t epoch, QueueRecord& record) const;
  Status read_progress(QueueRecord& record) const;
  Status read_split(QueueRecord& record) const;
  Status read_packed(QueueRecord& record) const;
  Status read_chain(std::uint16_t first, std::vector<bool>& seen, QueueRecord::Entry& into) const;
  Status check_batch(const QueueRecord& record) const;

  std::byte* region_;
  std::size_t entries_;  ///< offset
  std::uint16_t max_size_;

  // Used while the queue runs; a successor needs none of it.
  bool packed_ = false;
  std::uint64_t order_ = 0;  ///< of the last pop
  std::uint16_t used_ = 0;  ///< as in Progress
  std::vector<std::uint16_t> free_;  ///< packed: free entries
  std::vector<std::uint16_t> first_at_;  ///< packed, by the slot a buffer starts at: its first entry
  std::vector<std::uint16_t> below_;  ///< packed, by first entry: that of another buffer which starts at the same slot
  std::vector<std::uint16_t> batch_;  ///< packed: first entries of the batch
};

}  // namespace outboard::journal
