#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include <outboard/memory/address_map.hpp>
#include <outboard/memory/internal/shared.hpp>
#include <outboard/virtio/ring.hpp>

namespace outboard::virtio {
class DeviceCore;
}

namespace outboard::testing {

/// The driver's end of one virtqueue, driven by the test, valid or hostile: it writes whatever descriptors and indices the
/// test gives, into plain memory, and checks nothing. The memory is `memory_size` bytes at I/O address `base`; the test maps it
/// with mapping().
class HandDriver {
 public:
  struct Setup {
    bool packed = false;
    std::uint16_t size = 16;
    memory::Iova base{0x100000};
    std::shared_ptr<memory::HostMemory> memory{};  ///< of memory_size bytes; null: anonymous memory
  };
  static constexpr std::uint64_t memory_size = UINT64_C(4) << 20;

  /// Builds one buffer; publish() or add() ends it. Each element gets new, zeroed memory unless an address is given.
  class Chain {
   public:
    Chain& readable(std::uint32_t length) { return element(length, false); }
    Chain& readable(std::string_view text);
    Chain& writable(std::uint32_t length) { return element(length, true); }
    Chain& readable_at(memory::Iova address, std::uint32_t length) { return put(address, length, 0); }
    Chain& writable_at(memory::Iova address, std::uint32_t length) {
      return put(address, length, virtio::spec::descriptor::write);
    }
    /// From here on elements go to an indirect table.
    Chain& indirect();
    /// Flags added to, or taken from, the last descriptor: in the ring, or in the table.
    Chain& with(std::uint16_t flags);
    Chain& without(std::uint16_t flags);
    /// The length of the indirect table as its descriptor states it, in bytes.
    Chain& table_length(std::uint32_t length);
    Chain& table_address(memory::Iova address);
    /// Flags added to the descriptor that refers to the table.
    Chain& table_with(std::uint16_t flags);
    /// Split: sets `next` of the last descriptor, and its flag NEXT.
    Chain& next(std::uint16_t index);
    /// The buffer id (packed; split ids are head indices).
    Chain& id(std::uint16_t id);

    /// Writes the descriptors, and makes them available. Returns the id that the used entry will have.
    std::uint16_t publish();
    /// The same, but the device does not see it before HandDriver::publish().
    std::uint16_t add();
    /// The address of an element.
    memory::Iova at(std::size_t element) const { return all_[element]; }

   private:
    friend class HandDriver;
    struct Descriptor {
      memory::Iova address;
      std::uint32_t length;
      std::uint16_t flags;
      std::int32_t next = -1;
    };
    explicit Chain(HandDriver& driver) : driver_(driver) {}
    Chain& element(std::uint32_t length, bool writable);
    Chain& put(memory::Iova address, std::uint32_t length, std::uint16_t flags);
    Descriptor& last() { return table_.empty() ? direct_.back() : table_.back(); }

    HandDriver& driver_;
    std::vector<Descriptor> direct_, table_;
    std::vector<memory::Iova> all_;
    bool in_table_ = false;
    std::int64_t table_length_ = -1;
    std::uint16_t table_flags_ = 0;
    std::int32_t id_ = -1;
    std::uint64_t table_address_ = 0;
  };

  struct Used {
    std::uint32_t id = 0;
    std::uint32_t length = 0;
    friend bool operator==(const Used&, const Used&) = default;
  };

  explicit HandDriver(const Setup& setup);

  bool packed() const { return setup_.packed; }
  std::uint16_t size() const { return setup_.size; }
  memory::Mapping mapping(memory::Access access = memory::Access::read_write) const;
  const std::shared_ptr<memory::HostMemory>& host() const { return memory_; }
  memory::Iova address(unsigned area) const;  ///< of a part of the ring

  /// Initialises a device as a driver does: accepts all offered features and sets up queue 0 with this ring.
  void initialise(virtio::DeviceCore& core) const;

  Chain chain() { return Chain(*this); }
  /// Makes everything that was added available.
  void publish();
  /// The buffers that the device has used since the last call.
  std::vector<Used> take_used();
  std::size_t used_count() { return peek_used().size(); }
  std::vector<Used> peek_used();

  /// Memory for data, zeroed; never reused.
  memory::Iova allocate(std::uint64_t size, std::uint64_t alignment = 16);
  std::byte* at(memory::Iova iova) const { return memory_->data() + (raw(iova) - raw(setup_.base)); }
  std::string_view text(memory::Iova iova, std::size_t length) const {
    return {reinterpret_cast<const char*>(at(iova)), length};
  }

  // Direct access to the ring, for what the calls above cannot do.
  void put_descriptor(std::uint16_t index, const virtio::spec::Descriptor& descriptor);
  void put_packed(std::uint16_t slot, const virtio::spec::PackedDescriptor& descriptor);
  virtio::spec::PackedDescriptor packed_at(std::uint16_t slot) const;
  void set_avail_entry(std::uint16_t index, std::uint16_t head);
  void set_avail_idx(std::uint16_t idx);
  std::uint16_t avail_idx() const { return avail_; }
  std::uint16_t used_idx() const;
  Used used_entry(std::uint16_t index) const;
  virtio::PackedCursor cursor() const { return cursor_; }
  /// Starts over, as after a reset: cursors at 0, the ring zeroed.
  void restart();
  /// Continues at these cursors, with nothing in flight.
  void resume(std::uint16_t avail, virtio::PackedCursor cursor, virtio::PackedCursor used);

  // Notification suppression: what the driver asks for, and what the device asks for.
  void disable_interrupts();  ///< by flag
  void want_interrupt_at(std::uint16_t used_event);  ///< EVENT_IDX, split: index; packed: off_wrap
  void set_driver_flags(std::uint16_t flags);  ///< avail.flags, or the flags of the packed driver area
  std::uint16_t device_flags() const;  ///< used.flags, or those of the packed device area
  std::uint16_t device_event() const;  ///< avail_event, or off_wrap of the packed device area

 private:
  memory::Shared<le16> field(unsigned area, std::size_t offset) const;
  memory::Iova write_table(const Chain& chain);
  std::uint16_t add_split(const Chain& chain, std::vector<Chain::Descriptor> list);
  std::uint16_t add_packed(const Chain& chain, std::vector<Chain::Descriptor> list);

  Setup setup_;
  std::shared_ptr<memory::HostMemory> memory_;
  std::uint64_t free_ = 0;
  std::uint16_t next_descriptor_ = 0;
  std::uint16_t next_id_ = 0;
  std::uint16_t avail_ = 0;
  std::uint16_t last_used_ = 0;
  virtio::PackedCursor cursor_;
  virtio::PackedCursor used_cursor_;
  std::vector<std::uint16_t> counts_ = std::vector<std::uint16_t>(65536, 1);  ///< packed: slots of each id
  /// Packed: heads whose flags are not written yet.
  std::vector<std::pair<std::uint16_t, std::uint16_t>> held_;
};

}  // namespace outboard::testing
