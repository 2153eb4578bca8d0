#pragma once

#include <memory>

#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/internal/file_engine.hpp>

namespace outboard::storage {

/// Carries out system calls on a few threads: for systems that do not permit io_uring, and for ioctls, which io_uring does not
/// have.
class PoolEngine final : public FileEngine {
 public:
  /// `direct` is -1 if there is none; both descriptors outlive the engine. `threads` is 1...64.
  static Result<std::unique_ptr<PoolEngine>> create(Loop& loop, Client& client, int fd, int direct, unsigned threads);
  ~PoolEngine() override;

  std::string name() const override;
  void start(FileOp& op) override;
  void submit() override;
  bool poll() override;

 private:
  struct State;
  explicit PoolEngine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace outboard::storage
