#include <outboard/storage/internal/uring_engine.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <outboard/storage/pieces.hpp>

namespace outboard::storage {

namespace {

constexpr unsigned submission_entries = 256;
constexpr unsigned completion_entries = 4096;

/// Threads of the kernel, of either kind that it has (bounded and unbounded), for all that one thread submits. Left to itself
/// the kernel makes one for each operation that waits: thousands where storage hangs, and no process is left for others.
constexpr unsigned max_workers = 64;
/// How often it is tried again to have the kernel make a thread.
constexpr Duration between_threads = std::chrono::milliseconds(20);

Error ring_error(int code) {
  Error error(code, "io_uring is not available here: " + Error(code).what());
  if (code == EPERM || code == EACCES)
    return std::move(error).cure("allow it: sysctl kernel.io_uring_disabled=0, or the container's seccomp profile");
  if (code == ENOMEM) return std::move(error).cure("raise the limit on locked memory: ulimit -l");
  return error;
}

Error no_worker(std::string what) {
  return Error(EAGAIN, std::move(what))
      .cure("raise the limit on processes: ulimit -u, TasksMax= of the service, pids.max");
}

constexpr unsigned kinds_of_workers = 2;  // bounded, unbounded

/// Prepares what does nothing on a thread of the kernel, of either kind. ECANCELED: there is none, and none may be made.
void ask_for_workers(io_uring& ring) {
  io_uring_sqe* bounded = io_uring_get_sqe(&ring);
  io_uring_prep_nop(bounded);
  io_uring_sqe* unbounded = io_uring_get_sqe(&ring);
  io_uring_prep_readv(unbounded, -1, nullptr, 0, 0);  // the thread finds no such file
  for (io_uring_sqe* entry : {bounded, unbounded}) {
    entry->flags |= IOSQE_ASYNC;
    io_uring_sqe_set_data(entry, nullptr);
  }
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

  // A filter may allow making a ring and forbid using it. Waits for no thread: those that there are may all wait for storage.
  Status try_once() {
    io_uring_prep_nop(io_uring_get_sqe(&ring_));
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

/// The first threads that the kernel makes for those who submit from one of ours, one of each kind. They stay as long as that one
/// submits, and further operations wait for them; before they are there, and where none may be made (RLIMIT_NPROC, pids.max),
/// operations fail with ECANCELED.
enum class FirstWorkers : std::uint8_t {
  none,
  asked_for,  ///< by operations that do nothing there
  refused,  ///< asked for again after a while
  there,
};

struct UringEngine::State {
  Loop& loop;
  Client& client;
  std::array<int, 2> fds;
  bool fixed = false;  // fds are registered: entries name them by index
  bool workers_bounded = false;  // by the kernel; otherwise no more than max_workers operations are begun here
  Ring ring;
  Registration watch;
  Registration retry;
  FileOpList waiting;  // for room in the ring, or for a thread of the kernel
  FirstWorkers first_workers = FirstWorkers::none;
  std::thread::id submitter;  // for whom they are
  Registration another_try;
  unsigned answers_left = 0;  // of what asks for workers; until they have come no operation is prepared
  bool said_no_worker = false;
  unsigned prepared = 0;  // in the ring, not yet told to the kernel: operations, or what asks for workers
  unsigned in_flight = 0;  // operations that are prepared or with the kernel
  bool delivering = false;

  State(Loop& l, Client& c, int fd, int direct) : loop(l), client(c), fds{fd, direct} {}

  bool prepare(FileOp& op);
  void prepare_waiting();
  bool waits_for_workers() const {
    return first_workers == FirstWorkers::asked_for || first_workers == FirstWorkers::refused;
  }
  bool has_workers();
  /// Until something ends.
  bool is_full() const { return in_flight >= (workers_bounded ? completion_entries : max_workers); }
  void worker_answered(int result);
  bool enter();
  bool deliver();
  void later() {
    if (!retry.active()) retry = loop.after(std::chrono::milliseconds(1), [this] { retry.reset(), run(); });
  }
  bool run();
};

/// Whether there are threads of the kernel for those who submit from this one. Asks for them where not, once nothing else is
/// prepared.
bool UringEngine::State::has_workers() {
  const auto self = std::this_thread::get_id();
  if (first_workers == FirstWorkers::there && submitter == self) return true;
  if (first_workers == FirstWorkers::there) first_workers = FirstWorkers::none;
  if (first_workers != FirstWorkers::none || prepared != 0) return false;
  ask_for_workers(ring.get());
  prepared = answers_left = kinds_of_workers;
  submitter = self;
  first_workers = FirstWorkers::asked_for;
  return false;
}

void UringEngine::State::worker_answered(int result) {
  if (result == -ECANCELED) first_workers = FirstWorkers::refused;
  if (--answers_left != 0) return;
  if (first_workers == FirstWorkers::asked_for) {
    first_workers = FirstWorkers::there;
    return;
  }
  if (!std::exchange(said_no_worker, true)) {
    client.no_worker(no_worker("the kernel cannot create a thread for disk requests: they wait"));
  }
  another_try = loop.after(between_threads, [this] {
    another_try.reset();
    first_workers = FirstWorkers::none;
    run();
  });
}

bool UringEngine::State::prepare(FileOp& op) {
  if (!has_workers() || is_full() || io_uring_sq_space_left(&ring.get()) == 0) return false;
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
  // Never in this call: the kernel may wait there whatever it is told, for room in the disk's queue, for a discard of anybody's, for
  // what a file system has on the disk, or for a network.
  entry->flags |= IOSQE_ASYNC;
  io_uring_sqe_set_data(entry, &op);
  ++prepared;
  ++in_flight;
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
    const int count = io_uring_submit(&ring.get());
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
    any = true;
    if (op == nullptr) {
      worker_answered(result);
      continue;
    }
    --in_flight;
    op->result = result;
    client.ended(*op);
  }
  return any;
}

/// Enters what is prepared and delivers what has ended meanwhile: looking here often saves the way through the loop.
bool UringEngine::State::run() {
  if (delivering) return false;  // called by a completion: the caller of that one goes on below
  delivering = true;
  bool any = false;
  for (int round = 0; round < 8; ++round) {
    prepare_waiting();
    const bool entered = enter();
    const bool delivered = deliver();
    any = any || delivered;
    if (prepared == 0 && (waiting.empty() || waits_for_workers())) break;
    if (!entered && !delivered) break;
  }
  delivering = false;
  // While it waits for workers their answer, or the timer, goes on; while it is full, what ends.
  if (prepared != 0 || (!waiting.empty() && !waits_for_workers() && !is_full())) later();
  return any;
}

UringEngine::UringEngine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<UringEngine>> UringEngine::create(Loop& loop, Client& client, int fd, int direct) {
  std::unique_ptr<UringEngine> engine(new UringEngine(std::make_unique<State>(loop, client, fd, direct)));
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
  state.another_try.reset();
  state.watch.reset();
  // What was prepared but not entered never starts. What runs writes into memory of the caller: wait for it.
  // What asks for a thread of the kernel touches nothing, and may wait behind another disk's requests: it is left behind.
  if (state.answers_left == 0) state.in_flight -= state.prepared;
  while (state.in_flight != 0) {
    io_uring_cqe* completion = nullptr;
    const int code = io_uring_wait_cqe(&state.ring.get(), &completion);
    if (code == -EINTR) continue;
    if (code < 0) break;
    const bool asked = io_uring_cqe_get_data(completion) == nullptr;
    io_uring_cqe_seen(&state.ring.get(), completion);
    if (!asked) --state.in_flight;
  }
  // The ring would keep the image open, and locked, for some milliseconds more.
  if (state.fixed) io_uring_unregister_files(&state.ring.get());
}

Status UringEngine::wait_for_workers(Duration limit) {
  State& state = *state_;
  state.said_no_worker = true;  // it is said by what this returns
  const TimePoint end = Clock::system().now() + limit;
  state.has_workers();
  while (state.enter() && state.first_workers == FirstWorkers::asked_for && Clock::system().now() < end) {
    pollfd ring{.fd = state.ring.get().ring_fd, .events = POLLIN, .revents = 0};
    ::poll(&ring, 1, 1);
    state.deliver();
  }
  state.said_no_worker = false;
  if (state.first_workers != FirstWorkers::refused) return {};
  return no_worker("io_uring is not available here: the kernel cannot create a thread for it");
}

void UringEngine::start(FileOp& op) {
  if (!state_->waiting.empty() || !state_->prepare(op)) state_->waiting.push(op);
}

void UringEngine::submit() { state_->run(); }

bool UringEngine::poll() { return state_->run(); }

Status probe_io_uring() { return Ring().open(1, 2); }

}  // namespace outboard::storage
