#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include <outboard/virtio/device.hpp>
#include <outboard/virtio/journal.hpp>
#include <outboard/virtio/packed_device_ring.hpp>
#include <outboard/virtio/split_device_ring.hpp>

namespace outboard::virtio {

/// What a queue needs of the device core that runs it. Calls come on the queue's loop.
class QueueOwner {
 public:
  virtual ~QueueOwner() = default;
  /// The driver wants to be told that there are used buffers.
  virtual void queue_used(unsigned queue) = 0;
  /// Somebody broke a rule: the device is broken until it is reset.
  virtual void queue_broken(unsigned queue, std::string_view clause, std::string_view what) = 0;
};

/// Where the parts of a ring are, if each of them is contiguous in host memory that the device may use as a ring needs
/// it.
std::optional<RingPointers> locate_ring(const memory::Snapshot& snapshot, bool packed, const QueueState& ring);

/// The engine of one virtqueue on the device's side: takes buffers out of a split or packed ring, hands them to the
/// device as Requests, and gives back what is answered, in batches. Keeps up with a memory map that changes under it.
///
/// Everything comes on the queue's loop, but for kick(), halt(), and the answers of Requests, which may come from any
/// thread. Lives until the last token of it has returned, whoever else has let go of it: held by shared_ptr.
///
/// States: idle (no ring), running, stopping (nothing is popped any more, tokens are out), then idle again. Running
/// and parked: the ring's memory is away; and paused: the transport forbids DMA. In neither is anything popped or
/// published.
class DeviceQueue final : public memory::MapUser, public std::enable_shared_from_this<DeviceQueue> {
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

  static constexpr std::uint64_t max_bounce = UINT64_C(1) << 20;  ///< bytes of one request that are copied by messages
  static constexpr std::uint64_t max_queue_bounce = UINT64_C(8) << 20;  ///< of all requests of a queue
  static constexpr std::uint32_t max_spilled = 1U << 18;  ///< elements of long chains that a queue holds at once
  /// Requests that one pass hands to the device, and bytes of those among them that are not small (Chain::small_bytes):
  /// others on the loop wait no longer than for these, and for the request that exceeds them.
  static constexpr unsigned max_pass_requests = 256;
  static constexpr std::int64_t max_pass_bytes = INT64_C(4) << 20;
  /// What an element of a long chain counts in that, however short it is.
  static constexpr std::int64_t element_cost = 64;
  /// How often a buffer, or the memory for its pieces, is looked up again when the map changes meanwhile.
  static constexpr unsigned map_attempts = 4;
  /// How long after an unmap a buffer may be in no mapping before that counts as the driver's fault: a client that
  /// rearranges its memory unmaps all of it and maps it again in pieces.
  static constexpr Duration remap_grace = std::chrono::seconds(1);

  explicit DeviceQueue(const Environment& environment);
  ~DeviceQueue() override;

  /// Begins to serve the ring that `state` describes; the caller has checked that it is consistent. Buffers in flight
  /// are delivered again, first. Then looks at the ring, on the next turn of the loop.
  void start(const QueueState& state, const Rules& rules);

  /// Stops popping. The device is then told to give up what it keeps; finish() when it has.
  void quiesce(StopMode mode);
  /// `stopped` comes when no token is out any more, with all that another queue needs to go on.
  void finish(Stopped stopped);

  /// Nobody runs this queue any more: the device, the loops and the owner may go away. Tokens that are still out do
  /// nothing when they return. Any thread, while no other uses the queue.
  void abandon();

  void set_paused(bool paused);
  /// While the queue is idle, and before it is ever started.
  void set_journal(Journal& journal) { env_.journal = &journal; }
  /// From now on another journal is told, of what is in flight first. On the queue's loop; the old one may go then.
  void change_journal(Journal& journal);
  /// Nothing is popped any more, nor published (but see Environment::answers_when_broken): at once where it is called on
  /// the queue's loop, elsewhere once the queue has seen it. Any thread.
  void halt() { halted_.store(true, std::memory_order_relaxed); }
  /// Undoes halt(), for a queue that is idle.
  void clear_halt() { halted_.store(false, std::memory_order_relaxed); }

  /// There may be new buffers. Any thread; kicks that come before the queue has looked are one.
  void kick();
  /// Takes what is there, at most the queue's size, max_pass_requests and max_pass_bytes, and hands it to the device. Returns
  /// whether there was something.
  bool process();

  // MapUser
  Loop& map_loop() override { return *env_.loop; }
  void map_changed(memory::IovaRange removed, Loop::Task released) override;

  bool parked() const { return !bound_; }
  unsigned index() const { return env_.index; }
  std::uint32_t tokens_out() const { return tokens_; }

  // What a Request does.
  Status copy_in(RequestSlot& slot, MutableBytes into);  ///< these: as the calls of Request
  Status skip_in(RequestSlot& slot, std::uint64_t length);
  Status copy_out(RequestSlot& slot, Bytes from);
  Status copy_out_last(RequestSlot& slot, Bytes from);
  Status zero_out(RequestSlot& slot, std::uint64_t length);
  Result<std::span<const iovec>> pieces_in(RequestSlot& slot, std::uint64_t length);
  Result<std::span<const iovec>> pieces_out(RequestSlot& slot, std::uint64_t length);
  void pieces_written(RequestSlot& slot, std::uint64_t length);
  Status unpin(RequestSlot& slot);
  bool contains_faults() const { return env_.contains_faults; }
  enum class Answer : std::uint8_t { complete, drop, violation };
  void answer(RequestSlot& slot, Answer answer);
  /// answer(slot, Answer::complete), in the shortest way where nothing is special.
  void complete(RequestSlot& slot) {
    if (plain_thread_.load(std::memory_order_relaxed) != this_thread() || !slot.plain) [[unlikely]] {
      return answer(slot, Answer::complete);
    }
    batch_[batched_++] = slot.used();
    slot.state = RequestSlot::State::free;
    free_[free_count_++] = &slot;
    --tokens_;
  }
  void violation(std::string_view clause, std::string_view what) {
    if (!abandoned_.load(std::memory_order_relaxed)) env_.owner->queue_broken(env_.index, clause, what);
  }

 private:
  enum class Phase : std::uint8_t { idle, running, stopping };
  struct Waiting {
    memory::IovaRange removed;
    Loop::Task released;
  };
  struct Remote {
    RequestSlot* slot;
    Answer answer;
  };

  /// Something that only this thread has, and that is cheap to find: without a call, which other models of thread-local
  /// storage are where the code can be part of a shared library.
  static const void* this_thread() {
    [[gnu::tls_model("initial-exec")]] static thread_local const char mark = 0;
    return &mark;
  }

  bool can_run() const { return serving_ && !halted_.load(std::memory_order_relaxed); }
  /// Nothing is published any more. Where the driver cannot be told that the device is broken, it waits for what is in
  /// flight, and gets it.
  bool muted() const { return halted_.load(std::memory_order_relaxed) && !env_.answers_when_broken; }
  void update_serving();
  void update_plain_thread();

  // Passes: device_queue.cpp
  bool poll();
  bool pass();
  template <typename Ring>
  bool run_ring(Ring& ring);
  template <typename Ring>
  unsigned drain(Ring& ring, unsigned budget);
  template <bool again, typename Ring>
  bool take(Ring& ring);
  template <bool again, typename Ring>
  const RingRule* parse(Ring& ring, RequestSlot& slot);
  template <bool again, typename Ring>
  bool take_slowly(Ring& ring, RequestSlot& slot, const RingRule* rule);
  bool contain(RequestSlot& slot, const RingRule& rule, bool parsed);
  void say_fault(const RingRule& rule);
  void refuse(RequestSlot& slot);
  template <typename Ring>
  bool settle(Ring& ring, bool budget_left);
  template <typename Ring>
  void publish(Ring& ring);
  template <typename Ring>
  void notify(Ring& ring);
  bool can_publish() const;
  template <typename Ring>
  void journal_popped(const Ring& ring, const RequestSlot& slot);
  void publish_batch();
  void flush();
  void schedule_flush();
  void break_queue(const RingRule& rule);

  // Slots
  void deliver(RequestSlot& slot) {
    slot.state = RequestSlot::State::delivered;
    ++tokens_;
    env_.device->handle(Request(slot));
  }
  void free_slot(RequestSlot& slot);
  void answer_here(RequestSlot& slot, Answer answer);
  void answer_elsewhere(RequestSlot& slot, Answer answer);
  void take_remote_answers();
  void completed(RequestSlot& slot);
  void put_in_batch(RequestSlot& slot);
  void give_back(RequestSlot& slot);
  void give_back_in_order();
  void token_returned();

  // Memory: device_queue_memory.cpp
  void refresh_memory();
  void bind_ring();
  void unbind_ring();
  void ring_is_back();
  bool ring_poisoned() const;
  const RingRule* resolve(RequestSlot& slot);
  const RingRule* resolve_element(RequestSlot& slot, std::uint32_t index);
  bool has_room_for(const RequestSlot& slot) const;
  bool hold_for_map(const RingRule& rule);
  void stall() {
    stalled_ = true;
    update_plain_thread();
  }
  void unstall();
  Error lost_memory();
  template <typename Each>
  Status walk(RequestSlot& slot, memory::Access access, ChainCursor& cursor, std::uint64_t length, Each&& each);
  template <typename Each>
  Status walk_pieces(memory::IovaRange range, memory::Access access, Each&& each);
  Status find_pieces(RequestSlot& slot, memory::Access access, ChainCursor& cursor, std::uint64_t length,
                     std::vector<iovec>& pieces);
  void pin(RequestSlot& slot, memory::Access access);
  bool lost(const RequestSlot& slot) const;
  bool pinned(memory::IovaRange range) const;
  void release_unmaps();

  // Memory reachable only by messages: device_queue_bounce.cpp
  void fetch(RequestSlot& slot);
  void write_back(RequestSlot& slot);
  void transfer_next(RequestSlot& slot, memory::Access access);
  void transferred(RequestSlot& slot, memory::Access access, const Status& status);
  void fetched(RequestSlot& slot);

  // Stopping: device_queue.cpp
  bool can_finish() const { return stopped_ && !in_pass_ && tokens_ == 0 && transfers_ == 0; }
  void schedule_finish();
  void finish_if_quiet();
  QueueState capture() const;

  Environment env_;
  std::atomic<bool> halted_{false};
  std::atomic<bool> kicked_{false};
  bool serving_ = false;  ///< running, bound, not paused
  bool packed_ = false;
  bool in_order_ = false;
  bool notes_pops_ = false;  ///< for the journal, or for the sake of order
  bool in_pass_ = false;
  bool bound_ = false;
  bool paused_ = false;
  bool flush_scheduled_ = false;
  bool flags_suppress_ = false;  ///< kicks are suppressed by a flag, not by an index that stands still
  bool said_fault_ = false;  ///< of a buffer that failed alone
  bool stalled_ = false;  ///< something else than a kick has to happen before the next buffer can be taken
  Phase phase_ = Phase::idle;
  StopMode stop_mode_ = StopMode::drain;

  SplitDeviceRing split_;
  PackedDeviceRing packed_ring_;
  MemoryView view_;
  std::vector<UsedBuffer> batch_;  ///< answered and not published: `batched_` of them, and the ring is bound
  std::uint32_t batched_ = 0;

  std::unique_ptr<RequestSlot[]> slots_;
  std::uint32_t slot_count_ = 0;
  std::vector<RequestSlot*> free_;  ///< a stack, so that the slot used last is used next
  std::uint32_t free_count_ = 0;
  std::vector<RequestSlot*> order_;  ///< IN_ORDER: slots in the order they were popped, a ring buffer
  std::uint32_t order_first_ = 0;
  std::uint32_t order_count_ = 0;
  std::vector<RequestSlot*> waiting_;  ///< answered while the ring was away
  std::uint64_t pops_ = 0;
  std::uint32_t tokens_ = 0;
  std::uint32_t transfers_ = 0;
  std::uint32_t pinned_ = 0;
  std::uint32_t spilled_ = 0;
  std::uint64_t bounced_ = 0;
  std::int64_t bytes_left_ = 0;  ///< of max_pass_bytes, in this pass
  bool is_fetching_ = false;  ///< one request is on its way in; those behind it are stalled, to be delivered in order

  QueueState setup_;  ///< as given to start()
  std::vector<InFlight> replays_;  ///< still to be delivered again
  std::size_t next_replay_ = 0;
  std::uint64_t bound_generation_ = 0;
  std::array<std::shared_ptr<memory::HostMemory>, ring_parts> ring_memory_;
  std::array<Bytes, ring_parts> ring_bytes_;  ///< where the parts are in it
  std::vector<Waiting> unmaps_;
  TimePoint unmapped_at_{};  ///< when memory was last taken away
  Registration hold_timer_;
  Registration poller_;
  Stopped stopped_;
  InFlight journal_buffer_;  ///< what the journal is told of; kept for its storage

  // Answers from other threads, and the end of the queue.
  std::atomic<const void*> plain_thread_{nullptr};  ///< who is in process() now, if answers need nothing special there
  std::atomic<const void*> pass_thread_{nullptr};  ///< who is in process() now
  std::atomic<const void*> loop_thread_{nullptr};  ///< who was last
  std::mutex remote_mutex_;
  std::vector<Remote> remote_;  ///< guarded
  std::atomic<bool> abandoned_{false};
  std::shared_ptr<DeviceQueue> self_;  ///< guarded: keeps an abandoned queue until its last token returns
};

}  // namespace outboard::virtio
