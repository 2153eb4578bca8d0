#include <outboard/storage/uring_engine.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <liburing.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <outboard/storage/pieces.hpp>
#include <outboard/storage/shared_by_disk.hpp>

namespace outboard::storage {

namespace {

constexpr unsigned submission_entries = 256;
constexpr unsigned completion_entries = 4096;

/// Requests that all engines together may begin on a disk where they are submitted, at most.
constexpr std::uint64_t max_room = 256;
/// Threads of the kernel, of either kind that it has (bounded and unbounded), for all that one thread submits. Left to itself
/// the kernel makes one for each operation that waits: thousands where storage hangs, and no process is left for others.
constexpr unsigned max_workers = 64;
/// Storage that has ended nothing for this long while it has something to do is not begun with here.
constexpr Duration patience = std::chrono::milliseconds(10);
/// Reads in a row that were all in the page cache, with nothing else to do for the storage, after which the next one is taken
/// to be there too: asking costs half a microsecond, a quarter of such a read.
constexpr unsigned trusted_hits = 256;
/// A submission that took this long has waited for the storage; how long after it nothing is begun here.
constexpr Duration slow_submission = std::chrono::milliseconds(2);
constexpr Duration caution = std::chrono::seconds(1);

Error ring_error(int code) {
  Error error(code, "io_uring is not available here: " + Error(code).what());
  if (code == EPERM || code == EACCES)
    return std::move(error).cure("allow it: sysctl kernel.io_uring_disabled=0, or the container's seccomp profile");
  if (code == ENOMEM) return std::move(error).cure("raise the limit on locked memory: ulimit -l");
  return error;
}

/// The kernel's struct cachestat_range and struct cachestat (6.5).
struct CacheRange {
  std::uint64_t offset;
  std::uint64_t length;
};
struct CacheState {
  std::uint64_t cached;
  std::uint64_t others[4];
};

enum class Cached : std::uint8_t { all, not_all, unknown };

/// How an operation begins.
enum class Start : std::uint8_t {
  cached,  ///< in the call that submits it, and it does not reach the storage
  here,  ///< there too, if the storage need not be waited for
  worker,  ///< on a thread of the kernel
};

using Count = std::atomic<unsigned>;

/// What has been begun on a disk, in all of this process.
std::shared_ptr<Count> begun_on(dev_t disk) {
  return shared_by_disk<Count>(disk, [] { return std::make_shared<Count>(0); });
}

/// Whether a part of a file is in the page cache. Unknown on kernels before 6.5, and where the process does not own the file.
Cached in_page_cache(int fd, std::uint64_t offset, std::uint64_t length) {
  constexpr long number = 451;  // SYS_cachestat, which older headers lack
  static const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  CacheRange range{offset, length};
  CacheState state{};
  if (::syscall(number, fd, &range, &state, 0U) != 0) return Cached::unknown;
  return state.cached >= (offset + length - 1) / page - offset / page + 1 ? Cached::all : Cached::not_all;
}

class Ring {
 public:
  Ring() = default;
  ~Ring() {
    if (open_) io_uring_queue_exit(&ring_);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  Status open(unsigned entries, unsigned completions) {
    int code = -EINVAL;
    // COOP_TASKRUN spares an interrupt for each completion, and TASKRUN_FLAG shows one that waits for the next system call to
    // who polls without any; kernels before 5.19 refuse them.
    for (const unsigned more : {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0U}) {
      io_uring_params params{};
      params.flags = IORING_SETUP_CQSIZE | more;
      params.cq_entries = completions;
      code = io_uring_queue_init_params(entries, &ring_, &params);
      if (code != -EINVAL) break;
    }
    if (code < 0) return ring_error(-code);
    open_ = true;
    OUTBOARD_CHECK(check_operations());
    return try_once();
  }

  io_uring& get() { return ring_; }

  /// Whether the kernel keeps to max_workers. Before 5.15 it cannot.
  bool bound_workers() {
    std::array<unsigned, 2> kinds{max_workers, max_workers};
    return io_uring_register_iowq_max_workers(&ring_, kinds.data()) == 0;
  }

 private:
  /// Kernels before 5.6 lack some, and the way to ask.
  Status check_operations() {
    const std::unique_ptr<io_uring_probe, void (*)(io_uring_probe*)> known(io_uring_get_probe_ring(&ring_),
                                                                           io_uring_free_probe);
    for (const int operation :
         {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_STATX}) {
      if (!known || io_uring_opcode_supported(known.get(), operation) == 0) return ring_error(ENOSYS);
    }
    return {};
  }

  // A filter may allow making a ring and forbid using it.
  Status try_once() {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    io_uring_prep_nop(entry);
    io_uring_cqe* completion = nullptr;
    int code = io_uring_submit(&ring_);
    if (code == 1) {
      do {
        code = io_uring_wait_cqe(&ring_, &completion);
      } while (code == -EINTR);
    }
    if (code < 0 || completion == nullptr) return ring_error(code < 0 ? -code : EIO);
    io_uring_cqe_seen(&ring_, completion);
    return {};
  }

  io_uring ring_{};
  bool open_ = false;
};

}  // namespace

struct UringEngine::State {
  Loop& loop;
  Client& client;
  std::array<int, 2> fds;
  bool fixed = false;  // fds are registered: entries name them by index
  bool workers_bounded =
      false;  // by the kernel; otherwise no more than max_workers operations are begun on workers here
  Ring ring;
  Registration watch;
  Registration retry;
  FileOpList waiting;  // for room in the ring
  unsigned prepared = 0;  // in the ring, not yet told to the kernel
  unsigned in_flight = 0;  // prepared or with the kernel
  unsigned counted = 0;  // of these, begun on the disk
  unsigned begun = 0;  // requests that these are for the disk, in *rule.begun
  unsigned on_workers = 0;  // likewise, begun on threads of the kernel
  unsigned unseen = 0;  // requests that the kernel may have begun besides, not yet noted in *rule.unseen
  bool delivering = false;

  const SubmissionRule rule;
  unsigned hits = 0;  // reads in a row that were in the page cache
  bool cache_known = true;  // in_page_cache() has an answer here
  TimePoint last_progress{};  // when something ended, or there was something to do again
  TimePoint cautious_until{};  // zero: nothing has been slow lately
  std::optional<bool> cautious;  // as of what is being prepared, once that has been asked

  State(Loop& l, Client& c, int fd, int direct, SubmissionRule how)
      : loop(l), client(c), fds{fd, direct}, rule(std::move(how)) {}

  bool prepare(FileOp& op);
  Start start_of(const FileOp& op, unsigned requests);
  unsigned requests_of(const FileOp& op) const;
  bool has_room(unsigned more);
  bool fits(unsigned more);
  void note_unseen(unsigned requests);
  void count(FileOp& op, Start how, unsigned requests);
  void uncount(FileOp& op);
  bool is_cautious();
  void prepare_waiting();
  bool enter();
  bool deliver();
  void later() {
    if (!retry.active()) retry = loop.after(std::chrono::milliseconds(1), [this] { retry.reset(), run(); });
  }
  bool run();
};

/// What the kernel has threads for in any case is not asked.
Start UringEngine::State::start_of(const FileOp& op, unsigned requests) {
  if (rule.where == Submission::on_workers || (op.kind != FileOp::Kind::read && op.kind != FileOp::Kind::write))
    return Start::worker;
  const bool may_miss = op.kind == FileOp::Kind::read && !op.direct;
  if (may_miss && cache_known) {
    auto cached = Cached::all;
    if (hits < trusted_hits) {
      cached = in_page_cache(fds[0], op.offset, total_length({op.pieces, op.piece_count}));
      hits = cached == Cached::all ? hits + 1 : 0;
    }
    // The kernel may read ahead for one that is there.
    if (cached == Cached::all) return has_room(requests) ? Start::cached : Start::worker;
    if (cached == Cached::not_all) return Start::worker;
    cache_known = false;
  }
  return !is_cautious() && has_room(requests) ? Start::here : Start::worker;
}

/// How many requests the kernel makes of an operation, with what it reads ahead for it.
unsigned UringEngine::State::requests_of(const FileOp& op) const {
  if (op.kind != FileOp::Kind::read && op.kind != FileOp::Kind::write) return 1;
  const bool reads_ahead = op.kind == FileOp::Kind::read && !op.direct;
  const std::uint64_t bytes = total_length({op.pieces, op.piece_count}) + (reads_ahead ? rule.read_ahead : 0);
  return static_cast<unsigned>(std::min<std::uint64_t>(1 + bytes / rule.request_size, max_room));
}

/// Whether the disk's queue has room for `more` requests. What has been prepared may end as soon as it is entered, and then leaves
/// room. Another engine may take the same room at the same time: there is more than is given away.
bool UringEngine::State::has_room(unsigned more) {
  if (fits(more) || (prepared != 0 && enter() && fits(more))) return true;
  if (rule.unseen->count() == 0) return false;
  rule.unseen->look(rule.room);
  return fits(more);
}

bool UringEngine::State::fits(unsigned more) {
  const unsigned ended = io_uring_cq_ready(&ring.get());
  const unsigned cached = in_flight - counted;
  const unsigned own = in_flight - std::min(in_flight, ended);
  const unsigned all = rule.begun->load(std::memory_order_relaxed);
  const unsigned others = all - std::min({all, begun, ended - std::min(ended, cached)}) + rule.unseen->count();
  return own < rule.room && (others == 0 || others + more <= rule.room);
}

/// What begins as `how` says, and is so many requests for the disk.
void UringEngine::State::count(FileOp& op, Start how, unsigned requests) {
  ++in_flight;
  op.on_worker = how == Start::worker;
  if (op.on_worker) ++on_workers;
  op.requests = how == Start::cached ? 0 : requests;
  if (how == Start::cached) return note_unseen(requests);
  ++counted;
  begun += op.requests;
  rule.begun->fetch_add(op.requests, std::memory_order_relaxed);
}

/// Told to the others only some at a time: they would wait for each other's processors.
void UringEngine::State::note_unseen(unsigned requests) {
  unseen += requests;
  if (unseen * UINT64_C(32) >= rule.room) rule.unseen->note(std::exchange(unseen, 0));
}

/// It has ended.
void UringEngine::State::uncount(FileOp& op) {
  --in_flight;
  if (op.on_worker) --on_workers;
  if (op.requests == 0) return;
  --counted;
  begun -= op.requests;
  rule.begun->fetch_sub(op.requests, std::memory_order_relaxed);
}

/// Looks at the clock once for what is submitted together, and not at all while the storage is idle and has not been slow:
/// that takes up to 0.1 us on virtual machines.
bool UringEngine::State::is_cautious() {
  if (cautious) return *cautious;
  const bool with_storage = in_flight > prepared;
  cautious = false;
  if (!with_storage && cautious_until == TimePoint{}) return false;
  const TimePoint now = loop.clock().now();
  if (now >= cautious_until) cautious_until = {};
  cautious = cautious_until != TimePoint{} || (with_storage && now - last_progress > patience);
  return *cautious;
}

bool UringEngine::State::prepare(FileOp& op) {
  if (in_flight >= completion_entries || io_uring_sq_space_left(&ring.get()) == 0) return false;
  const unsigned requests = requests_of(op);
  const Start how = start_of(op, requests);
  if (how == Start::worker && !workers_bounded && on_workers >= max_workers) return false;
  io_uring_sqe* entry = io_uring_get_sqe(&ring.get());
  const int fd = fixed ? static_cast<int>(op.direct) : fds[op.direct ? 1 : 0];
  switch (op.kind) {
    case FileOp::Kind::read:
      io_uring_prep_readv(entry, fd, op.pieces, op.piece_count, op.offset);
      break;
    case FileOp::Kind::write:
      io_uring_prep_writev(entry, fd, op.pieces, op.piece_count, op.offset);
      break;
    case FileOp::Kind::sync:
      io_uring_prep_fsync(entry, fd, IORING_FSYNC_DATASYNC);
      break;
    case FileOp::Kind::allocate:
      io_uring_prep_fallocate(entry, fd, op.mode, static_cast<off_t>(op.offset), static_cast<off_t>(op.length));
      break;
    case FileOp::Kind::size:
      // Takes no registered file.
      io_uring_prep_statx(entry, fds[0], "", AT_EMPTY_PATH, STATX_SIZE,
                          static_cast<struct statx*>(op.pieces->iov_base));
      break;
    case FileOp::Kind::discard:
      io_uring_prep_nop(entry);
      break;  // never given to this engine
  }
  if (fixed && op.kind != FileOp::Kind::discard && op.kind != FileOp::Kind::size) entry->flags |= IOSQE_FIXED_FILE;
  if (how == Start::worker) entry->flags |= IOSQE_ASYNC;
  io_uring_sqe_set_data(entry, &op);
  ++prepared;
  count(op, how, requests);
  return true;
}

void UringEngine::State::prepare_waiting() {
  FileOpList left;
  while (FileOp* op = waiting.pop()) {
    if (prepare(*op)) continue;
    left.push(*op);
    left.append(waiting);
    break;
  }
  waiting.append(left);
}

/// Tells the kernel what was prepared. False: it has to be tried again.
bool UringEngine::State::enter() {
  while (prepared != 0) {
    const TimePoint before = loop.clock().now();
    if (in_flight == prepared) last_progress = before;
    const int count = io_uring_submit(&ring.get());
    const TimePoint after = loop.clock().now();
    if (after - before > slow_submission) {  // or another process has had this processor
      cautious_until = after + caution;
      hits = 0;
    }
    cautious.reset();
    if (count == -EINTR) continue;
    if (count <= 0) return false;  // EAGAIN, EBUSY: no memory, or completions have to be taken first
    prepared -= std::min(prepared, static_cast<unsigned>(count));
  }
  return true;
}

bool UringEngine::State::deliver() {
  bool any = false;
  io_uring_cqe* completion = nullptr;
  // Bounded: what the client starts meanwhile is entered after this, not here.
  for (unsigned left = completion_entries; left != 0 && io_uring_peek_cqe(&ring.get(), &completion) == 0; --left) {
    auto* op = static_cast<FileOp*>(io_uring_cqe_get_data(completion));
    const int result = completion->res;
    io_uring_cqe_seen(&ring.get(), completion);
    uncount(*op);
    any = true;
    op->result = result;
    client.ended(*op);
  }
  return any;
}

/// Enters what is prepared and delivers what has ended. Much ends at once (a page-cache hit), so looking here often
/// saves the way through the loop.
bool UringEngine::State::run() {
  if (delivering) return false;  // called by a completion: the caller of that one goes on below
  delivering = true;
  bool any = false;
  for (int round = 0; round < 8; ++round) {
    prepare_waiting();
    const bool entered = enter();
    const bool delivered = deliver();
    if (in_flight != 0) hits = 0;  // the storage has something to do
    if (delivered && in_flight != 0) last_progress = loop.clock().now();
    any = any || delivered;
    if (prepared == 0 && waiting.empty()) break;
    if (!entered && !delivered) break;
  }
  delivering = false;
  if (prepared != 0 || !waiting.empty()) later();
  return any;
}

UringEngine::UringEngine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<UringEngine>> UringEngine::create(Loop& loop, Client& client, int fd, int direct,
                                                         SubmissionRule rule) {
  std::unique_ptr<UringEngine> engine(
      new UringEngine(std::make_unique<State>(loop, client, fd, direct, std::move(rule))));
  State& state = *engine->state_;
  OUTBOARD_CHECK(state.ring.open(submission_entries, completion_entries));
  io_uring& ring = state.ring.get();
  state.workers_bounded = state.ring.bound_workers();
  state.fixed = io_uring_register_files(&ring, state.fds.data(), direct >= 0 ? 2 : 1) == 0;
  OUTBOARD_TRY(state.watch, loop.watch(ring.ring_fd, Ready::readable, [&state](Ready) { state.run(); }));
  return engine;
}

UringEngine::~UringEngine() {
  State& state = *state_;
  state.retry.reset();
  state.watch.reset();
  // What was prepared but not entered never starts. What runs writes into memory of the caller: wait for it.
  state.in_flight -= state.prepared;
  while (state.in_flight != 0) {
    io_uring_cqe* completion = nullptr;
    const int code = io_uring_wait_cqe(&state.ring.get(), &completion);
    if (code == -EINTR) continue;
    if (code < 0) break;
    io_uring_cqe_seen(&state.ring.get(), completion);
    --state.in_flight;
  }
  state.rule.begun->fetch_sub(state.begun, std::memory_order_relaxed);
  // The ring would keep the image open, and locked, for some milliseconds more.
  if (state.fixed) io_uring_unregister_files(&state.ring.get());
}

void UringEngine::start(FileOp& op) {
  if (!state_->waiting.empty() || !state_->prepare(op)) state_->waiting.push(op);
}

void UringEngine::submit() { state_->run(); }

bool UringEngine::poll() { return state_->run(); }

unsigned room_in(const RequestQueue& queue) {
  const auto depth = queue.depth();
  if (!depth) return SubmissionRule{}.room;
  return static_cast<unsigned>(std::clamp<std::uint64_t>(*depth * 3 / 4, 1, max_room));
}

SubmissionRule submission_for(int fd, const std::string& sys) {
  const auto on_disk = [&sys](dev_t device) -> SubmissionRule {
    const RequestQueue queue = RequestQueue::of(device, sys);
    // The kernel does not count the requests of a partition as the disk's.
    if (!queue.depth() || queue.disk() != device || queue.is_on_others()) return {};
    SubmissionRule rule{.where = Submission::here,
                        .begun = begun_on(queue.disk()),
                        .unseen = UnseenRequests::on(queue),
                        .room = room_in(queue)};
    constexpr std::uint64_t kibibyte = 1024;
    rule.request_size = std::max<std::uint64_t>(queue.limit("max_sectors_kb").value_or(512), 4) * kibibyte;
    rule.read_ahead = queue.limit("read_ahead_kb").value_or(128) * kibibyte;
    return rule;
  };
  struct stat info{};
  struct statfs system{};
  if (::fstat(fd, &info) != 0) return {};
  if (S_ISBLK(info.st_mode)) return on_disk(info.st_rdev);
  if (!S_ISREG(info.st_mode) || ::fstatfs(fd, &system) != 0) return {};
  // On a disk, file systems wait in the call, whatever room there is: ext4 for its extents, XFS for a lock that a worker holds
  // while it waits for the disk.
  if (static_cast<unsigned long>(system.f_type) == TMPFS_MAGIC) return {.where = Submission::here};
  return {};
}

Status probe_io_uring() { return Ring().open(1, 2); }

}  // namespace outboard::storage
