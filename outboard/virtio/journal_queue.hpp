#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/memory/shared.hpp>
#include <outboard/virtio/journal_layout.hpp>
#include <outboard/virtio/queue_state.hpp>
#include <outboard/virtio/ring.hpp>

namespace outboard::virtio {

/// What a queue's region of an in-flight log says, checked as far as that goes without the ring.
struct JournalRecord {
  struct Entry {
    std::uint64_t order = 0;  ///< number of the pop
    std::uint16_t entry = 0;  ///< where it is in the region
    InFlight buffer;
  };
  bool packed = false;
  QueueState ring;  ///< size and addresses
  journal_layout::Progress progress;
  std::vector<std::uint16_t> batch;  ///< entries of the buffers that are being published
  std::vector<Entry> entries;  ///< in the order they were popped, the batch's too

  /// Whether the buffer in `entry` belongs to the batch.
  bool in_batch(std::uint16_t entry) const;
};

/// One queue's region of an in-flight log, written while the queue runs. docs/journal.md, rows J1... of
/// docs/memory-ordering.md. The calls are those of Journal, on the same threads.
class JournalQueue {
 public:
  /// `region`: zeroed, or written by another JournalQueue, of this process or one before it.
  JournalQueue(std::byte* region, std::uint16_t max_size);

  /// In `epoch`, from `state`. Where the region says just that already nothing is stored; else it is void until all is
  /// there.
  void start(const QueueState& state, bool packed, std::uint32_t epoch);
  /// Nothing is in flight.
  void clear();

  void popped(const InFlight& buffer) {
    if (packed_) return popped_packed(buffer);
    // J1: before anybody sees the buffer.
    split_entry(buffer.head).store(journal_layout::seal(++order_, buffer.head), std::memory_order_release);
  }
  void publishing(std::span<const UsedBuffer> batch, std::uint16_t next_used, bool used_wrap);
  void published(std::span<const UsedBuffer> batch, std::uint16_t next_used, bool used_wrap);

  /// What the region says of `epoch`; nothing: the queue does not run. EBADMSG: it cannot say that.
  Result<std::optional<JournalRecord>> read(std::uint32_t epoch) const;
  /// Ends the publishing of a batch: it was published, or it is in flight as before.
  void settle(const JournalRecord& record, bool published);

 private:
  using Progress = journal_layout::Progress;

  memory::Shared<le64> word(std::size_t offset) const { return memory::Shared<le64>(region_ + offset); }
  memory::Shared<le32> word32(std::size_t offset) const { return memory::Shared<le32>(region_ + offset); }
  memory::Shared<le16> word16(std::size_t offset) const { return memory::Shared<le16>(region_ + offset); }
  memory::Shared<le16> batch_entry(std::size_t index) const {
    return word16(sizeof(journal_layout::Queue) + index * sizeof(le16));
  }
  memory::Shared<le64> split_entry(std::uint16_t head) const { return word(entries_ + head * sizeof(le64)); }
  /// One of the four words of an entry.
  memory::Shared<le64> packed_entry(std::uint16_t entry, unsigned which) const {
    return word(entries_ + entry * sizeof(journal_layout::PackedEntry) + which * sizeof(le64));
  }
  memory::Shared<le64> order_of(bool packed, std::uint16_t entry) const {
    return packed ? packed_entry(entry, 0) : split_entry(entry);
  }
  void store_progress(const Progress& progress) const;
  std::uint16_t cursor(std::uint16_t next_used, bool used_wrap) const {
    return packed_ ? PackedCursor{next_used, used_wrap}.off_wrap() : next_used;
  }

  void popped_packed(const InFlight& buffer);
  std::uint16_t take_entry(const UsedBuffer& buffer);
  void write(const QueueState& state, std::uint32_t epoch);
  void adopt(const JournalRecord& record);
  bool says(const QueueState& state, bool packed, std::uint32_t epoch) const;

  Status read_head(std::uint32_t epoch, JournalRecord& record) const;
  Status read_progress(JournalRecord& record) const;
  Status read_split(JournalRecord& record) const;
  Status read_packed(JournalRecord& record) const;
  Status read_chain(std::uint16_t first, std::vector<bool>& seen, JournalRecord::Entry& into) const;
  Status check_batch(const JournalRecord& record) const;

  std::byte* region_;
  std::size_t entries_;  ///< offset
  std::uint16_t max_size_;

  // While the queue runs. Nothing here is needed by a successor.
  bool packed_ = false;
  std::uint64_t order_ = 0;  ///< of the last pop
  std::uint16_t used_ = 0;  ///< as in Progress
  std::vector<std::uint16_t> free_;  ///< packed: entries that no buffer has
  std::vector<std::uint16_t> first_at_;  ///< packed, by the slot a buffer starts at: its first entry
  std::vector<std::uint16_t> below_;  ///< packed, by first entry: that of another buffer which starts at the same slot
  std::vector<std::uint16_t> batch_;  ///< packed: first entries of the batch
};

}  // namespace outboard::virtio
