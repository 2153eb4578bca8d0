#pragma once

#include <memory>

#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/file_engine.hpp>

namespace outboard::storage {

/// io_uring, its descriptor watched by the loop. Operations go to the kernel in batches, at submit().
class UringEngine final : public FileEngine {
 public:
  /// `direct` is -1 where there is none; both descriptors outlive the engine. EPERM, ENOSYS and others when io_uring is
  /// not permitted here (containers often block it): the kernel is asked by making a ring and using it once.
  static Result<std::unique_ptr<UringEngine>> create(Loop& loop, Client& client, int fd, int direct);
  ~UringEngine() override;

  std::string name() const override { return "io_uring"; }
  void start(FileOp& op) override;
  void submit() override;
  bool poll() override;

 private:
  struct State;
  explicit UringEngine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Whether this process may use io_uring, and if not, why and what would mend it.
Status probe_io_uring();

}  // namespace outboard::storage
