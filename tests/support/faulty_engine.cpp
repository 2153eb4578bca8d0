#include <tests/support/faulty_engine.hpp>

#include <algorithm>
#include <cerrno>
#include <random>
#include <span>
#include <utility>

#include <outboard/storage/pieces.hpp>

namespace outboard::testing {

namespace {

using storage::FileOp;

bool is_transfer(FileOp::Kind kind) { return kind == FileOp::Kind::read || kind == FileOp::Kind::write; }

FaultyStorage::Seen seen_of(const FileOp& op) {
  const std::uint64_t length =
      is_transfer(op.kind) ? storage::total_length(std::span(op.pieces, op.piece_count)) : op.length;
  const auto in_page = [](const iovec& piece) { return reinterpret_cast<std::uintptr_t>(piece.iov_base) % 4096 == 0; };
  const bool in_pages = !is_transfer(op.kind) || std::ranges::all_of(std::span(op.pieces, op.piece_count), in_page);
  return {op.kind, op.direct, op.mode, op.offset, length, in_pages};
}

/// Does the first `bytes` of a transfer.
ssize_t perform_part(const FileOp& op, int fd, std::uint64_t bytes) {
  std::vector<iovec> pieces(op.pieces, op.pieces + op.piece_count);
  for (iovec& piece : pieces) {
    piece.iov_len = std::min<std::uint64_t>(piece.iov_len, bytes);
    bytes -= piece.iov_len;
  }
  FileOp part = op;
  part.pieces = pieces.data();
  return storage::perform(part, fd);
}

}  // namespace

class FaultyStorage::Engine final : public storage::FileEngine {
 public:
  Engine(FaultyStorage& storage, Loop& loop, Client& client, int fd, int direct)
      : storage_(storage), loop_(loop), client_(client), fd_(fd), direct_(direct) {
    storage_.engines_.push_back(this);
  }
  /// What runs in the kernel ends, whoever is told of it.
  ~Engine() override {
    std::erase(storage_.engines_, this);
    for (Running& running : running_) {
      if (running.fault.kind != Fault::Kind::hang) perform(running);
    }
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  std::string name() const override { return "faults"; }
  void start(FileOp& op) override { started_.push_back(&op); }
  void submit() override {
    if (!started_.empty()) ++storage_.submits;
    start_all();
  }
  bool poll() override { return turn(); }

  std::size_t hanging() const {
    return static_cast<std::size_t>(
        std::ranges::count_if(running_, [](const Running& r) { return r.fault.kind == Fault::Kind::hang; }));
  }
  void release() {
    for (Running& running : running_) {
      if (running.fault.kind == Fault::Kind::hang) running.fault = Fault();
    }
    come_back();
  }

 private:
  struct Running {
    FileOp* op = nullptr;
    Fault fault;
  };

  void start_all() {
    for (FileOp* op : std::exchange(started_, {})) {
      storage_.seen.push_back(seen_of(*op));
      running_.push_back({op, storage_.plan(storage_.seen.back())});
    }
    come_back();
  }
  void come_back() {
    if (running_.size() == hanging() || turn_.active()) return;
    turn_ = loop_.after(Duration(0), [this] {
      turn_.reset();
      turn();
    });
  }

  /// Ends what is due; returns whether there was something.
  bool turn() {
    std::vector<Running> due;
    for (Running running : std::exchange(running_, {})) {
      const bool waits = running.fault.kind == Fault::Kind::hang || running.fault.late != 0;
      if (running.fault.late != 0) --running.fault.late;
      (waits ? running_ : due).push_back(running);
    }
    if (storage_.newest_first) std::ranges::reverse(due);
    for (Running& running : due) {
      perform(running);
      client_.ended(*running.op);
    }
    start_all();  // what the ended ones have started
    return !due.empty();
  }

  void perform(Running& running) const {
    FileOp& op = *running.op;
    const int fd = op.direct ? direct_ : fd_;
    switch (running.fault.kind) {
      case Fault::Kind::none:
      case Fault::Kind::hang:
        op.result = storage::perform(op, fd);
        return;
      case Fault::Kind::part:
        op.result = perform_part(op, fd_, running.fault.bytes);
        return;
      case Fault::Kind::torn:
        perform_part(op, fd_, running.fault.bytes);
        [[fallthrough]];
      case Fault::Kind::error:
        op.result = -running.fault.error;
    }
  }

  FaultyStorage& storage_;
  Loop& loop_;
  Client& client_;
  int fd_;
  int direct_;
  std::vector<FileOp*> started_;
  std::vector<Running> running_;
  Registration turn_;
};

storage::EngineFactory FaultyStorage::factory() {
  return [this](Loop& loop, storage::FileEngine::Client& client, int fd,
                int direct) -> Result<std::unique_ptr<storage::FileEngine>> {
    return std::make_unique<Engine>(*this, loop, client, fd, direct);
  };
}

std::size_t FaultyStorage::hanging() const {
  std::size_t count = 0;
  for (const Engine* engine : engines_) count += engine->hanging();
  return count;
}

void FaultyStorage::release() {
  for (Engine* engine : engines_) engine->release();
}

void FaultyStorage::be_difficult(unsigned seed) {
  newest_first = true;
  plan = [random = std::minstd_rand(seed)](const Seen& op) mutable {
    const auto below = [&random](std::uint64_t limit) { return random() % limit; };
    Fault fault;
    switch (below(6)) {
      case 0:
        fault = Fault::fails(EINTR);
        break;
      case 1:
        fault = Fault::fails(EAGAIN);
        break;
      case 2:
      case 3:
        if (is_transfer(op.kind) && op.length > 1) fault = Fault::part(1 + below(op.length - 1));
        break;
      case 4:
        if (is_transfer(op.kind) && op.direct && !op.in_pages) fault = Fault::fails(EINVAL);
        break;
      default:
        break;
    }
    fault.late = static_cast<unsigned>(below(3));
    return fault;
  };
}

}  // namespace outboard::testing
