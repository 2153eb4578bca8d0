#include <outboard/storage/internal/pool_engine.hpp>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include <outboard/base/fd.hpp>
#include <outboard/base/internal/thread.hpp>
#include <outboard/storage/internal/signals_blocked.hpp>

namespace outboard::storage {

struct PoolEngine::State {
  Client& client;
  int fd;
  int direct;
  FileOpList held;  // started, not yet submitted; the loop's
  EventFd done;
  Registration watch;

  std::mutex mutex;
  std::condition_variable wake;
  FileOpList waiting;   // guarded by mutex
  FileOpList finished;  // guarded by mutex
  bool stopping = false;  // guarded by mutex

  std::vector<std::thread> threads;

  State(Client& c, int f, int d) : client(c), fd(f), direct(d) {}

  void work() {
    std::unique_lock lock(mutex);
    while (true) {
      wake.wait(lock, [this] { return stopping || !waiting.empty(); });
      FileOp* op = stopping ? nullptr : waiting.pop();
      if (op == nullptr) return;
      lock.unlock();
      op->result = perform(*op, op->direct ? direct : fd);
      lock.lock();
      const bool first = finished.empty();
      finished.push(*op);
      if (first) done.signal();
    }
  }
};

PoolEngine::PoolEngine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<PoolEngine>> PoolEngine::create(Loop& loop, Client& client, int fd, int direct,
                                                       unsigned threads) {
  std::unique_ptr<PoolEngine> engine(new PoolEngine(std::make_unique<State>(client, fd, direct)));
  State& state = *engine->state_;
  OUTBOARD_TRY(state.done, EventFd::create());
  OUTBOARD_TRY(state.watch, loop.watch_eventfd(state.done, [&engine = *engine] { engine.poll(); }));
  const SignalsBlocked blocked;
  for (unsigned i = 0; i < threads; ++i) {
    auto thread = start_thread("disk I/O", [&state] { state.work(); });
    if (!thread && state.threads.empty()) return thread.error();
    if (!thread) break;  // fewer do the same
    state.threads.push_back(std::move(*thread));
  }
  return engine;
}

PoolEngine::~PoolEngine() {
  state_->watch.reset();
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_all();
  for (auto& thread : state_->threads) thread.join();
}

std::string PoolEngine::name() const { return fmt::format("{} threads", state_->threads.size()); }

void PoolEngine::start(FileOp& op) { state_->held.push(op); }

void PoolEngine::submit() {
  if (state_->held.empty()) return;
  {
    const std::lock_guard lock(state_->mutex);
    state_->waiting.append(state_->held);
  }
  state_->wake.notify_all();
}

bool PoolEngine::poll() {
  FileOpList ended;
  {
    const std::lock_guard lock(state_->mutex);
    ended.append(state_->finished);
  }
  const bool any = !ended.empty();
  while (FileOp* op = ended.pop()) state_->client.ended(*op);
  submit();  // what the ended ones have started
  return any;
}

}  // namespace outboard::storage
