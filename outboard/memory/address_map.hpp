#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <outboard/base/loop.hpp>
#include <outboard/memory/host_memory.hpp>
#include <outboard/memory/internal/device_writes.hpp>
#include <outboard/memory/internal/memory_port.hpp>
#include <outboard/memory/iova.hpp>

namespace outboard::memory {

/// A range of I/O addresses and the memory behind it: host memory, or a port if it is reachable only by messages or system
/// calls.
struct Mapping {
  IovaRange range;
  Access access = Access::read_write;
  std::shared_ptr<HostMemory> memory;  ///< null: reach it through `port`
  std::uint64_t offset = 0;  ///< offset of range.start in `memory`
  std::shared_ptr<MemoryPort> port;
  /// The file that `memory` maps, for passing it on; range.start is at `file_offset`. Only this descriptor keeps it open.
  std::shared_ptr<const UniqueFd> file{};
  std::uint64_t file_offset = 0;

  std::byte* host(Iova iova) const { return memory->data() + offset + (raw(iova) - raw(range.start)); }
};

/// The result of a lookup.
enum class Lookup : std::uint8_t {
  ok,
  hole,  ///< a byte is in no mapping
  denied,  ///< a mapping lacks the permission
  remote,  ///< a byte is reachable only through a port
};

/// A piece of host memory found for part of an I/O address range.
struct Segment {
  std::byte* data = nullptr;
  std::uint64_t size = 0;
};

/// The address map at one moment. Immutable, so any thread that holds it reads it without locks.
///
/// Mappings lie in chunks that a snapshot shares with its predecessor. A change copies one chunk and a short table, not
/// thousands of mappings.
class Snapshot {
 public:
  /// The mapping that holds `iova`, or null. O(log n).
  const Mapping* find(Iova iova) const { return at(index_of(iova)); }

  /// Calls `each(Segment)` for the consecutive pieces of host memory behind the range, in order. A range may continue from
  /// one mapping into an adjacent one (VIRTIO does not forbid it). Stops at the first byte that is not host memory with the
  /// permission, and returns the reason; `each` was called for the pieces before it.
  /// `hint`: where the last lookup ended, in this or another snapshot; makes the common case one comparison. Opaque;
  /// initially 0; may be null.
  template <typename Each>
  Lookup translate(IovaRange range, Access access, std::size_t* hint, Each&& each) const;

  /// Whether the device may do `access` to every byte of the range. ok: all of it is host memory. remote: some of it is behind
  /// a port.
  Lookup check(IovaRange range, Access access) const;

  /// The host address of a range within the memory of one mapping; null otherwise. For rings.
  std::byte* contiguous(IovaRange range, Access access) const;

  std::uint64_t generation() const { return generation_; }
  /// How a device writes to what is mapped here. For a snapshot of an AddressMap; shared by all of that map.
  const DeviceWrites& writes() const { return *writes_; }

  std::size_t mapping_count() const { return count_; }
  /// Calls `each(const Mapping&)` in the order of their addresses. They are disjoint.
  template <typename Each>
  void for_each(Each&& each) const;

 private:
  friend class AddressMap;
  friend class SnapshotEditor;

  static constexpr std::size_t chunk_capacity = 64;
  static constexpr std::size_t nowhere = SIZE_MAX;
  using Chunk = std::vector<Mapping>;  // never empty
  struct ChunkRef {
    Iova first;
    std::shared_ptr<const Chunk> chunk;
  };

  // A position: the chunk's number times chunk_capacity plus the place in the chunk.
  std::size_t index_of(Iova iova) const;  ///< nowhere when in no mapping
  std::size_t next(std::size_t index) const;
  const Mapping* at(std::size_t index) const {
    const std::size_t chunk = index / chunk_capacity;
    if (chunk >= chunks_.size() || index % chunk_capacity >= chunks_[chunk].chunk->size()) return nullptr;
    return &(*chunks_[chunk].chunk)[index % chunk_capacity];
  }
  /// Calls `each(mapping, at, size)` for the pieces of the range; stops when it returns anything but ok.
  template <typename Each>
  Lookup walk(IovaRange range, Access access, std::size_t* hint, Each&& each) const;

  std::vector<ChunkRef> chunks_;
  std::size_t count_ = 0;
  std::uint64_t generation_ = 0;
  std::shared_ptr<const DeviceWrites> writes_;
};

/// A user of memory that it found in a snapshot, such as a virtqueue. The map calls map_changed() when memory is removed.
class MapUser {
 public:
  virtual ~MapUser() = default;

  /// The loop on which this user touches memory.
  virtual Loop& map_loop() = 0;

  /// Runs on map_loop(). The map has changed; `removed` is the range that was removed (size 0: none). The user takes the new
  /// snapshot for its next access, and calls `released` once no access of its own is running on the removed range: copies have
  /// ended (they run on this thread), back-end I/O may take longer. Call `released` exactly once, on this thread; calling it
  /// inside this call is allowed. The completion of the unmap does not run inside it.
  virtual void map_changed(IovaRange removed, Loop::Task released) = 0;
};

/// I/O addresses to memory, published as immutable snapshots. map(), unmap(), clear() and the user list belong to one
/// thread (the device's control loop); current(), generation() and resolve() are for any thread. The control loop must
/// outlive the map and its users.
///
/// A removed mapping stays mapped in this process until the last snapshot and the last I/O that use it are gone, so a late
/// access is harmless to this process. MapUser::map_changed makes sure that nothing accesses the range
/// once the unmap is answered.
class AddressMap {
 public:
  using Completion = std::move_only_function<void(Status)>;
  struct Limits {
    std::size_t max_mappings = 65535;
  };

  explicit AddressMap(Loop& control) : AddressMap(control, Limits{}) {}
  AddressMap(Loop& control, Limits limits);
  /// Calls the outstanding completions with ECANCELED.
  ~AddressMap();

  /// EINVAL: range not well-formed, nothing behind it, or larger than the memory behind it. EEXIST: overlaps a mapping
  /// (also an identical one). ENOSPC: too many mappings. With an error nothing has changed.
  Status map(Mapping mapping);

  /// Removes every mapping that lies entirely within `range`. `done` is called on the control loop when no user has an access
  /// running on them: inside this call if none has now, else on a turn of the loop of its own, never inside the call with which
  /// a user releases them or is removed. `done` may destroy the users and the map. EINVAL: the range cuts a mapping, or is not
  /// well-formed; ENOENT: no mapping in it. With an error nothing is removed, and `done` has been called with the error.
  void unmap(IovaRange range, Completion done);
  /// Removes all mappings. An empty map is not an error.
  void clear(Completion done);

  std::shared_ptr<const Snapshot> current() const;
  /// Changes whenever current() does; one load tells a user whether its snapshot is still the newest.
  std::uint64_t generation() const { return generation_.load(std::memory_order_acquire); }  // row M2

  /// Sets the log of what devices write to this memory; null: none. See DeviceWrites::set_log().
  void set_write_log(WriteLog* log) { writes_->set_log(log); }

  /// Control loop. The map calls the user's map_changed() at every later change; remove the user before it is destroyed. No
  /// unmap waits for a removed user, and a call of its map_changed() on another thread has returned when remove_user() returns.
  void add_user(MapUser& user);
  void remove_user(MapUser& user);

  /// Called for a range whose first byte is in no mapping (VDUSE learns its mappings this way). Returns the mapping with that
  /// byte, or nothing if there is none. Runs on the thread that translates, one call at a time, and never while another thread
  /// is inside map(), unmap() or clear(), so that a later invalidation removes what it returned. It must not wait for the
  /// control loop, and must not call this map or its users.
  using Resolver = std::function<std::optional<Mapping>(IovaRange, Access)>;
  /// Before anyone translates.
  void set_resolver(Resolver resolver) { resolver_ = std::move(resolver); }
  /// Returns when no call of the resolver is in progress; its results are in current(). Any thread.
  void settle_resolver() const;
  /// Asks the resolver for the missing parts of the range. Returns whether all of it can now be accessed, by way of current().
  /// Does not call map_changed(), since nothing was removed. Any thread.
  bool resolve(IovaRange range, Access access) const;

 private:
  struct Core;
  Status insert(Mapping mapping) const;
  void publish(Snapshot next) const;

  Limits limits_;
  mutable std::atomic<std::uint64_t> generation_{0};  ///< mutable: resolve() learns of the map, and does not change it
  // Readers take its mutex only when generation() says that there is something new.
  struct Published;
  std::unique_ptr<Published> published_;
  std::shared_ptr<Core> core_;  ///< the users, and the unmaps that wait for them
  Resolver resolver_;
  std::shared_ptr<DeviceWrites> writes_ = std::make_shared<DeviceWrites>();
};

template <typename Each>
Lookup Snapshot::walk(IovaRange range, Access access, std::size_t* hint, Each&& each) const {
  if (range.size == 0) return Lookup::ok;
  if (!range.well_formed()) return Lookup::hole;
  std::size_t index = hint != nullptr ? *hint : nowhere;
  const Mapping* mapping = at(index);
  if (mapping == nullptr || !mapping->range.contains({range.start, 1})) {
    index = index_of(range.start);
    mapping = at(index);
  }
  Iova position = range.start;
  std::uint64_t left = range.size;
  while (true) {
    if (mapping == nullptr || !mapping->range.contains({position, 1})) return Lookup::hole;
    if (!allows(mapping->access, access)) return Lookup::denied;
    if (hint != nullptr) *hint = index;
    const std::uint64_t rest = raw(mapping->range.last()) - raw(position);  // of the mapping, after this byte
    const std::uint64_t size = left - 1 < rest ? left : rest + 1;
    if (const Lookup verdict = each(*mapping, position, size); verdict != Lookup::ok) return verdict;
    left -= size;
    if (left == 0) return Lookup::ok;
    position = position + size;
    index = next(index);
    mapping = at(index);
  }
}

template <typename Each>
Lookup Snapshot::translate(IovaRange range, Access access, std::size_t* hint, Each&& each) const {
  return walk(range, access, hint, [&](const Mapping& mapping, Iova position, std::uint64_t size) {
    if (!mapping.memory) return Lookup::remote;
    each(Segment{mapping.host(position), size});
    return Lookup::ok;
  });
}

template <typename Each>
void Snapshot::for_each(Each&& each) const {
  for (const ChunkRef& ref : chunks_) {
    for (const Mapping& mapping : *ref.chunk) each(mapping);
  }
}

}  // namespace outboard::memory
