#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace outboard::virtio {

/// What a driver knows about the buffers it has given to a device: in private memory, so that nothing the device writes
/// can change it. Both ring formats keep theirs here, by buffer id, and both take back buffers here. Part of DriverQueue.
///
/// Adding and taking back allocate nothing.
class DriverBuffers {
 public:
  struct Retired {
    void* cookie = nullptr;
    std::uint32_t length = 0;
    std::uint16_t id = 0;
    std::uint16_t descriptors = 0;  ///< ring slots it took
    std::uint16_t last = 0;  ///< as given to add()
  };

  DriverBuffers(std::uint16_t size, bool in_order);

  /// `id` is not in use. `last` is for the ring's own use.
  void add(std::uint16_t id, std::uint16_t descriptors, std::uint16_t last, std::uint64_t writable, void* cookie);
  /// The device may use from now on what was added before.
  void publish();

  std::uint16_t in_flight() const { return in_flight_; }  ///< added and not taken back
  std::uint16_t available() const { return available_; }  ///< published and not taken back
  bool has_unpublished() const { return in_flight_ != available_; }

  /// The device has used `id`, with used length `length`. False when it was not given a buffer with this id (or
  /// not yet, or has returned it): it is broken. Otherwise retire() gives what is used, one after the other, for as long
  /// as used() holds; with IN_ORDER that may be more than one.
  bool accept(std::uint32_t id, std::uint32_t length);
  bool used() const { return used_; }
  Retired retire();

  /// How often a device claimed to have written more than it was given room for.
  std::uint64_t clamped() const { return clamped_; }

  /// The cookies of what is in flight, in the order it was added; forgets all of it.
  std::vector<void*> take_all();

 private:
  struct Buffer {
    void* cookie = nullptr;
    std::uint64_t sequence = 0;  ///< counts what is added; tells whether this one was published
    std::uint32_t writable = 0;
    std::uint16_t descriptors = 0;
    std::uint16_t last = 0;
    bool in_use = false;
  };

  std::uint16_t next_id();

  std::unique_ptr<Buffer[]> buffers_;
  std::unique_ptr<std::uint16_t[]> order_;  ///< IN_ORDER only: ids as they were added, a ring
  std::uint16_t size_;
  std::uint16_t in_flight_ = 0;
  std::uint16_t available_ = 0;
  std::uint16_t oldest_ = 0;  ///< of order_
  std::uint16_t newest_ = 0;  ///< one beyond
  std::uint16_t used_id_ = 0;
  bool used_ = false;
  std::uint32_t used_length_ = 0;
  std::uint64_t added_ = 0;  ///< sequence number of the next
  std::uint64_t published_ = 0;  ///< sequence number of the first that is not published
  std::uint64_t clamped_ = 0;
};

// On the path of every request, so inline.

inline void DriverBuffers::add(std::uint16_t id, std::uint16_t descriptors, std::uint16_t last, std::uint64_t writable,
                               void* cookie) {
  buffers_[id] = {.cookie = cookie,
                  .sequence = added_++,
                  // 2^32 writable bytes are legal; a used length cannot say so.
                  .writable = writable > UINT32_MAX ? UINT32_MAX : static_cast<std::uint32_t>(writable),
                  .descriptors = descriptors,
                  .last = last,
                  .in_use = true};
  ++in_flight_;
  if (!order_) return;
  order_[newest_] = id;
  if (++newest_ == size_) newest_ = 0;
}

inline void DriverBuffers::publish() {
  published_ = added_;
  available_ = in_flight_;
}

inline bool DriverBuffers::accept(std::uint32_t id, std::uint32_t length) {
  // docs/spec-map.md, VR-1: before the id is narrowed or used as an index. VR-2; also for an id that the device guessed.
  if (id >= size_ || !buffers_[id].in_use) return false;
  if (buffers_[id].sequence >= published_) return false;
  used_id_ = static_cast<std::uint16_t>(id);
  used_length_ = length;
  used_ = true;
  return true;
}

inline std::uint16_t DriverBuffers::next_id() {
  if (!order_) return used_id_;
  const std::uint16_t id = order_[oldest_];
  if (++oldest_ == size_) oldest_ = 0;
  return id;
}

inline DriverBuffers::Retired DriverBuffers::retire() {
  const std::uint16_t id = next_id();
  Buffer& buffer = buffers_[id];
  // VIRTIO 1.4, 2.7.9 and 2.8.9: with IN_ORDER one used entry, with the id of the last, may stand for a batch; skipped
  // buffers count as used completely.
  std::uint32_t length = buffer.writable;
  if (id == used_id_) {
    used_ = false;
    if (used_length_ > buffer.writable) {
      ++clamped_;
    } else {
      length = used_length_;
    }
  }
  buffer.in_use = false;
  --in_flight_;
  --available_;
  return {.cookie = buffer.cookie, .length = length, .id = id, .descriptors = buffer.descriptors, .last = buffer.last};
}

}  // namespace outboard::virtio
