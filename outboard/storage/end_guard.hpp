#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include <sys/stat.h>
#include <sys/uio.h>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/storage/file_engine.hpp>

namespace outboard::storage {

/// In front of the engine of a file that is written: keeps writes from beyond where the file ends, which would make a file
/// longer that somebody has shortened, and from beyond RLIMIT_FSIZE, which would raise SIGXFSZ, whose default is to end the
/// process. Such a write ends with -EIO or -EFBIG.
///
/// The kernel has no write that leaves the size alone, so this looks at the size and the limit: before the first write, and
/// before each write that comes a second or more after the last look. A write within that second may still make the file
/// longer, or raise the signal.
class EndGuard final : public FileEngine, public FileEngine::Client {
 public:
  static constexpr Duration look_interval = std::chrono::seconds(1);

  /// `capacity`, in bytes, is what the file should have; it outlives the guard. `path` is for the log.
  EndGuard(Loop& loop, FileEngine::Client& client, const std::atomic<std::uint64_t>& capacity, std::string path,
           Log log);

  /// The engine that does the work; it tells this.
  void set_engine(std::unique_ptr<FileEngine> engine) { engine_ = std::move(engine); }

  std::string name() const override { return engine_->name(); }
  void start(FileOp& op) override;
  void submit() override { engine_->submit(); }
  bool poll() override { return engine_->poll(); }

 private:
  enum class State : std::uint8_t { unknown, whole, shortened, limited };

  void ended(FileOp& op) override;
  void look();
  void looked();
  void set_state(State state);
  static std::uint64_t end_of(const FileOp& op);
  int refusal(const FileOp& op) const;
  void pass(FileOp& op);

  Loop& loop_;
  FileEngine::Client& client_;
  const std::atomic<std::uint64_t>& capacity_;
  std::string path_;
  Log log_;

  State state_ = State::unknown;
  std::uint64_t end_ = 0;  ///< where writes end, as last seen
  TimePoint next_look_{};
  bool looking_ = false;
  FileOp look_op_;
  struct statx size_{};
  iovec size_piece_{&size_, sizeof size_};
  FileOpList waiting_;  ///< writes, for what a look says

  std::unique_ptr<FileEngine> engine_;  ///< the first to go: what it does not do any more uses the rest
};

}  // namespace outboard::storage
