#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/internal/file_engine.hpp>

namespace outboard::storage {

/// Carries out operations with io_uring; the loop watches its descriptor. submit() passes operations to the kernel in batches.
/// They run on threads of the kernel, never inside submit(), which could otherwise wait for the storage. The kernel makes at
/// most 64 threads of each of its two kinds (bounded and unbounded) for the engines of one thread; further operations wait.
class UringEngine final : public FileEngine {
 public:
  /// `direct` is -1 if there is none; both descriptors outlive the engine. EPERM, ENOSYS and others: io_uring is not permitted
  /// (containers often block it); create() finds out by using a ring once.
  static Result<std::unique_ptr<UringEngine>> create(Loop& loop, Client& client, int fd, int direct);
  ~UringEngine() override;

  /// Waits until the kernel has started threads for the operations of the calling thread. EAGAIN: it cannot start any
  /// (RLIMIT_NPROC, pids.max); operations wait until it can. If that takes longer than `limit`, there are threads and all of
  /// them wait for storage: success. Call it before the first start().
  Status wait_for_workers(Duration limit);

  std::string name() const override { return "io_uring"; }
  void start(FileOp& op) override;
  void submit() override;
  bool poll() override;

 private:
  struct State;
  explicit UringEngine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Whether this process may use io_uring; if not, the error has the reason and the cure.
Status probe_io_uring();

}  // namespace outboard::storage
