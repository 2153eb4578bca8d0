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
#include <outboard/storage/internal/file_engine.hpp>

namespace outboard::storage {

/// An engine in front of the engine of a file that is written. A write beyond the end of the file, which would make a truncated
/// file longer again, ends with -EIO; a write beyond RLIMIT_FSIZE, which would raise SIGXFSZ and end the process, with -EFBIG.
///
/// The kernel has no write that never changes the size, so this engine checks the size and the limit: before the first write,
/// and before each write that comes a second or more after the last check. A write within that second may still make the file
/// longer, or raise the signal.
class EndGuard final : public FileEngine, public FileEngine::Client {
 public:
  static constexpr Duration look_interval = std::chrono::seconds(1);

  /// `capacity`: the expected size of the file, in bytes; it outlives the guard. `path` is for the log.
  EndGuard(Loop& loop, FileEngine::Client& client, const std::atomic<std::uint64_t>& capacity, std::string path,
           Log log);

  /// The engine that does the work; it reports completions to this one.
  void set_engine(std::unique_ptr<FileEngine> engine) { engine_ = std::move(engine); }

  std::string name() const override { return engine_->name(); }
  void start(FileOp& op) override;
  void submit() override { engine_->submit(); }
  bool poll() override { return engine_->poll(); }

 private:
  enum class State : std::uint8_t { unknown, whole, shortened, limited };

  void ended(FileOp& op) override;
  void no_worker(const Error& why) override { client_.no_worker(why); }
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
  std::uint64_t end_ = 0;  ///< the end of the file at the last check
  TimePoint next_look_{};
  bool looking_ = false;
  FileOp look_op_;
  struct statx size_{};
  iovec size_piece_{&size_, sizeof size_};
  FileOpList waiting_;  ///< writes that wait for a check

  std::unique_ptr<FileEngine> engine_;  ///< destroyed first: its last completions use the other members
};

}  // namespace outboard::storage
