#include <outboard/storage/uring_engine.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>

#include <liburing.h>

namespace outboard::storage {

namespace {

constexpr unsigned submission_entries = 256;
constexpr unsigned completion_entries = 4096;

Error ring_error(int code) {
  Error error(code, "io_uring is not available here: " + Error(code).what());
  if (code == EPERM || code == EACCES)
    return std::move(error).cure("allow it: sysctl kernel.io_uring_disabled=0, or the container's seccomp profile");
  if (code == ENOMEM) return std::move(error).cure("raise the limit on locked memory: ulimit -l");
  return error;
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
    // COOP_TASKRUN spares an interrupt for each completion; kernels before 5.19 refuse it.
    for (const unsigned more : {IORING_SETUP_COOP_TASKRUN, 0U}) {
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

 private:
  /// Kernels before 5.6 lack some, and the way to ask.
  Status check_operations() {
    const std::unique_ptr<io_uring_probe, void (*)(io_uring_probe*)> known(io_uring_get_probe_ring(&ring_),
                                                                           io_uring_free_probe);
    for (const int operation : {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE}) {
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
  bool fixed = false;       // fds are registered: entries name them by index
  Ring ring;
  Registration watch;
  Registration retry;
  FileOpList waiting;       // for room in the ring
  unsigned prepared = 0;    // in the ring, not yet told to the kernel
  unsigned in_flight = 0;   // prepared or with the kernel
  bool delivering = false;

  State(Loop& l, Client& c, int fd, int direct) : loop(l), client(c), fds{fd, direct} {}

  bool prepare(FileOp& op);
  void prepare_waiting();
  bool enter();
  bool deliver();
  void later() {
    if (!retry.active()) retry = loop.after(std::chrono::milliseconds(1), [this] { retry.reset(), run(); });
  }
  bool run();
};

bool UringEngine::State::prepare(FileOp& op) {
  if (in_flight >= completion_entries) return false;
  io_uring_sqe* entry = io_uring_get_sqe(&ring.get());
  if (entry == nullptr) return false;
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
    case FileOp::Kind::discard:
      io_uring_prep_nop(entry);
      break;  // never given to this engine
  }
  if (fixed && op.kind != FileOp::Kind::discard) entry->flags |= IOSQE_FIXED_FILE;
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
    --in_flight;
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
    any = any || delivered;
    if (prepared == 0 && waiting.empty()) break;
    if (!entered && !delivered) break;
  }
  delivering = false;
  if (prepared != 0 || !waiting.empty()) later();
  return any;
}

UringEngine::UringEngine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<UringEngine>> UringEngine::create(Loop& loop, Client& client, int fd, int direct) {
  std::unique_ptr<UringEngine> engine(new UringEngine(std::make_unique<State>(loop, client, fd, direct)));
  State& state = *engine->state_;
  OUTBOARD_CHECK(state.ring.open(submission_entries, completion_entries));
  io_uring& ring = state.ring.get();
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
  // The ring would keep the image open, and locked, for some milliseconds more.
  if (state.fixed) io_uring_unregister_files(&state.ring.get());
}

void UringEngine::start(FileOp& op) {
  if (!state_->waiting.empty() || !state_->prepare(op)) state_->waiting.push(op);
}

void UringEngine::submit() { state_->run(); }

bool UringEngine::poll() { return state_->run(); }

Status probe_io_uring() { return Ring().open(1, 2); }

}  // namespace outboard::storage
