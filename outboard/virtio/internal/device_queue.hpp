#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <outboard/virtio/device.hpp>
#include <outboard/virtio/internal/packed_device_ring.hpp>
#include <outboard/virtio/internal/queue_phase.hpp>
#include <outboard/virtio/internal/queue_thread.hpp>
#include <outboard/virtio/internal/remote_answers.hpp>
#include <outboard/virtio/internal/request_memory.hpp>
#include <outboard/virtio/internal/request_slots.hpp>
#include <outboard/virtio/internal/request_transfers.hpp>
#include <outboard/virtio/internal/ring_memory.hpp>
#include <outboard/virtio/internal/split_device_ring.hpp>
#include <outboard/virtio/journal.hpp>

namespace outboard::virtio {

/// What a queue needs of the device core that runs it. Calls come on the queue's loop.
class QueueOwner {
 public:
  virtual ~QueueOwner() = default;
  /// There are used buffers, and the driver wants a notification.
  virtual void queue_used(unsigned queue) = 0;
  /// The driver or the device broke a rule: the device is broken until it is reset.
  virtual void queue_broken(unsigned queue, std::string_view clause, std::string_view what) = 0;
};

/// The engine of one virtqueue on the device's side: takes buffers from a split or packed ring, passes them to the device as
/// Requests, and publishes the answered ones in batches. The memory map may change while it runs.
///
/// Its phases, and what moves it from one to another, are in queue_phase.hpp. Its parts: RequestSlots (the buffers it has),
/// RequestMemory (their bytes), RequestTransfers (those reachable only by messages), RingMemory (where the ring is),
/// RemoteAnswers and QueueThread (answers from other threads).
///
/// All calls come on the queue's loop, except kick(), halt() and the answers of Requests, which may come from any thread.
/// Held by shared_ptr: it exists until the last of its requests has been answered, even without another holder.
class DeviceQueue final : public memory::MapUser,
                          public LostMemory,
                          public TransferOwner,
                          public std::enable_shared_from_this<DeviceQueue> {
 public:
  struct Environment {
    unsigned index = 0;
    Device* device = nullptr;
    QueueOwner* owner = nullptr;
    memory::AddressMap* memory = nullptr;
    Loop* loop = nullptr;  ///< the queue's
    Loop* control = nullptr;  ///< where memory ports live
    Journal* journal = nullptr;
    bool poll = false;
    bool answers_when_broken = false;
    bool contains_faults = false;
    Log log{};
  };
  struct Rules {
    bool packed = false;
    bool event_idx = false;
    bool indirect = false;
    bool in_order = false;
    std::uint32_t chain_limit = 0;
  };
  using Stopped = std::move_only_function<void(QueueState)>;

  static constexpr std::uint64_t max_bounce = RequestTransfers::max_bounce;
  static constexpr std::uint64_t max_queue_bounce = RequestTransfers::max_queue_bounce;
  static constexpr unsigned map_attempts = RequestMemory::map_attempts;
  static constexpr std::uint32_t max_spilled = 1U << 18;  ///< elements of long chains that a queue holds at once
  /// The maximum number of requests in one pass, and of bytes in those of them that are not small (Chain::small_bytes): the
  /// rest of the loop waits at most for these, and for the one request that exceeds them.
  static constexpr unsigned max_pass_requests = 256;
  static constexpr std::int64_t max_pass_bytes = INT64_C(4) << 20;
  /// What an element of a long chain adds to the bytes of a pass, beside its length.
  static constexpr std::int64_t element_cost = 64;
  /// For this time after an unmap a buffer that is not mapped is no violation: a client that rearranges its memory unmaps all
  /// of it and maps it again in pieces.
  static constexpr Duration remap_grace = std::chrono::seconds(1);

  explicit DeviceQueue(const Environment& environment);
  ~DeviceQueue() override;

  /// Starts serving the ring that `state` describes; the caller has checked that it is consistent. Buffers in flight are
  /// delivered again, first. The queue looks at the ring on the next turn of the loop.
  void start(const QueueState& state, const Rules& rules);

  /// Stops popping. Next, call Device::stop_queue(), and finish() after its completion.
  void quiesce(StopMode mode);
  /// Calls `stopped`, with the state from which another queue can continue, when the device has no request of this queue any
  /// more.
  void finish(Stopped stopped);

  /// The queue is not run any more: the device, the loops and the owner may be destroyed. Requests that the device still has do
  /// nothing when they are answered. Any thread, while no other thread uses the queue.
  void abandon();

  void set_paused(bool paused);
  /// Call it while the queue is idle, before the first start().
  void set_journal(Journal& journal) { env_.journal = &journal; }
  /// Replaces the journal: records the buffers in flight in the new one. On the queue's loop; the old one may be destroyed
  /// afterwards.
  void change_journal(Journal& journal);
  /// Ends popping, and publishing too (but see Environment::answers_when_broken): at once if called on the queue's loop,
  /// otherwise as soon as the queue sees it. Answers from before are published when the queue stops or pauses, or its ring is
  /// unmapped, so that the queue's state does not lose their buffers. Any thread.
  void halt() { halted_.store(true, std::memory_order_relaxed); }
  /// Undoes halt(), for a queue that is idle.
  void clear_halt() { halted_.store(false, std::memory_order_relaxed); }

  /// There may be new buffers. Any thread; several kicks before the queue looks at the ring count as one.
  void kick();
  /// One pass: takes the available buffers, at most the queue's size, max_pass_requests and max_pass_bytes, and passes them to
  /// the device. Returns whether there was one.
  bool process();

  // MapUser
  Loop& map_loop() override { return *env_.loop; }
  void map_changed(memory::IovaRange removed, Loop::Task released) override;

  // The operations of a Request.
  RequestMemory& memory() { return memory_; }
  bool contains_faults() const { return env_.contains_faults; }
  void answer(RequestSlot& slot, RequestAnswer answer);
  /// answer(slot, RequestAnswer::complete), with a fast path for the common case.
  void complete(RequestSlot& slot) {
    if (!thread_.has_shortcut() || slot.care != RequestSlot::Care::none || is_halted()) [[unlikely]] {
      return answer(slot, RequestAnswer::complete);
    }
    batch_[batched_++] = slot.used();
    slots_.free(slot);
    --tokens_;
  }
  void violation(std::string_view clause, std::string_view what) {
    if (!remote_.abandoned()) env_.owner->queue_broken(env_.index, clause, what);
  }

 private:
  /// Whether the next buffer is taken, and what it waits for.
  enum class Intake : std::uint8_t {
    open,  ///< it is taken
    fetching,  ///< the one before it is being fetched, and the device gets them in order
    waiting,  ///< until an answer makes room, or the map changes
  };

  bool is_halted() const { return halted_.load(std::memory_order_relaxed); }
  MemoryView& view() { return memory_.view(); }
  /// Whether nothing is published any more. With answers_when_broken (the driver cannot see that the device is broken), the
  /// buffers in flight are still published.
  bool is_muted() const { return is_halted() && !env_.answers_when_broken; }
  bool can_run() const { return phase_ == QueuePhase::serving && !is_halted(); }
  bool may_take(unsigned budget) const { return budget != 0 && can_run() && intake_ == Intake::open; }
  void move(QueueEvent event);
  void ring_moved();
  void set_intake(Intake intake);
  void update_shortcut();
  void break_queue(const RingRule& rule);

  // Passes: process(), run_pass(), take(). device_queue.cpp
  bool poll();
  template <DeviceRing Ring>
  bool run_pass(Ring& ring);
  template <DeviceRing Ring>
  bool has_next(Ring& ring);
  template <bool again, DeviceRing Ring>
  bool take(Ring& ring);
  template <bool again, DeviceRing Ring>
  const RingRule* parse(Ring& ring, RequestSlot& slot);
  template <bool again, DeviceRing Ring>
  bool take_slow_path(Ring& ring, RequestSlot& slot, const RingRule* rule);
  template <DeviceRing Ring>
  void note_pop(const Ring& ring, RequestSlot& slot, bool again);
  void hand_over_slow_path(RequestSlot& slot);
  void deliver(RequestSlot& slot) {
    slot.state = RequestSlot::State::delivered;
    ++tokens_;
    env_.device->handle(Request(slot));
  }
  template <DeviceRing Ring>
  bool settle(Ring& ring, bool budget_left);

  // Publishing: device_queue.cpp
  template <DeviceRing Ring>
  void suppress(Ring& ring) {
    ring.suppress();
    ring_.note_stores(view());
  }
  template <DeviceRing Ring>
  void publish(Ring& ring);
  template <DeviceRing Ring>
  void notify(Ring& ring);
  void publish_batch();
  void flush();
  void schedule_flush();

  // Answers: device_queue_answers.cpp
  void answer_here(RequestSlot& slot, RequestAnswer answer);
  void answer_elsewhere(RequestSlot& slot, RequestAnswer answer);
  void take_remote_answers();
  void completed(RequestSlot& slot);
  void give_back(RequestSlot& slot);
  void give_back_in_order();
  void put_in_batch(RequestSlot& slot);
  void token_returned();
  void open_intake();
  void transferred(RequestSlot& slot, memory::Access access, const RingRule* failure) override;
  void fetched(RequestSlot& slot);
  bool is_abandoned() const override { return remote_.abandoned(); }

  // Stopping: device_queue_stop.cpp
  bool can_finish() const { return stopped_ && !thread_.in_pass() && has_nothing_out(); }
  bool has_nothing_out() const { return tokens_ == 0 && transfers_.running() == 0; }
  void schedule_finish();
  void finish_if_quiet();
  QueueState capture() const;

  // Where the ring and the buffers are: device_queue_memory.cpp
  void refresh_memory();
  void ring_is_back();
  const RingRule* resolve(RequestSlot& slot);
  const RingRule* resolve_element(RequestSlot& slot, std::uint32_t index);
  bool has_room_for(const RequestSlot& slot) const;
  bool hold_for_map(const RingRule& rule);
  bool contain(RequestSlot& slot, const RingRule& rule, bool parsed);
  void log_fault_once(const RingRule& rule);
  void memory_lost() override;

  Environment env_;
  std::atomic<bool> halted_{false};
  std::atomic<bool> kicked_{false};  ///< a look at the ring has been posted
  QueuePhase phase_ = QueuePhase::idle;
  Intake intake_ = Intake::open;
  bool packed_ = false;
  bool in_order_ = false;
  bool notes_pops_ = false;  ///< for the journal, or for the sake of order
  bool suppresses_by_flag_ = false;  ///< without EVENT_IDX: an event index that stands still suppresses by itself
  bool paused_ = false;  ///< the transport forbids DMA
  bool flush_scheduled_ = false;
  bool has_logged_fault_ = false;

  SplitDeviceRing split_;
  PackedDeviceRing packed_ring_;
  /// Answered and not published: the first `batched_`; the ring can be used then. Their slots are free: only the batch knows
  /// of these buffers.
  std::vector<UsedBuffer> batch_;
  std::uint32_t batched_ = 0;
  std::uint32_t tokens_ = 0;  ///< requests that are with the device
  std::uint32_t spilled_ = 0;  ///< elements of long chains
  std::uint64_t pops_ = 0;
  std::int64_t bytes_left_ = 0;  ///< of max_pass_bytes, in this pass
  RequestSlots slots_;
  RequestMemory memory_;
  RequestTransfers transfers_;
  RingMemory ring_;
  QueueThread thread_;
  RemoteAnswers remote_;

  QueueState setup_;  ///< as given to start(), but for what was in flight
  std::vector<InFlight> replays_;  ///< what was in flight, to be delivered again
  std::size_t next_replay_ = 0;
  TimePoint unmapped_at_{};  ///< when memory was last taken away
  Registration hold_timer_;
  Registration poller_;
  Stopped stopped_;  ///< set until the end of a stop
  InFlight journal_buffer_;  ///< the argument for the journal; kept to reuse its storage
};

}  // namespace outboard::virtio
