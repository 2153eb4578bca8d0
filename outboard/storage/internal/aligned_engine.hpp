#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <sys/uio.h>

#include <outboard/base/loop.hpp>
#include <outboard/storage/internal/bounce.hpp>
#include <outboard/storage/internal/file_engine.hpp>
#include <outboard/storage/internal/range_lock.hpp>

namespace outboard::storage {

/// An engine in front of the engine of an image that is open with O_DIRECT. All reads and writes use O_DIRECT: Linux does not
/// keep the page cache coherent with O_DIRECT writes in flight, so a write through the cache at the same time could overwrite
/// them with old bytes, or make flushes of the image fail.
///
/// A transfer that O_DIRECT allows is passed on unchanged. Any other transfer goes through aligned memory, in steps of
/// `max_step` bytes; each step ends the transfer short, and the client continues after it. A write that does not begin and end
/// at a unit of the storage first reads the units at its ends, which are locked meanwhile against other writes of the image. If
/// `budget` bytes of memory are in use, steps wait, in order.
class AlignedEngine final : public FileEngine, public FileEngine::Client, private RangeLock::Owner {
 public:
  static constexpr std::uint64_t max_step = UINT64_C(256) << 10;
  static constexpr std::uint64_t budget = UINT64_C(2) << 20;
  static constexpr std::uint64_t sector = 512;

  /// `lock`: the range lock of the image.
  AlignedEngine(Loop& loop, FileEngine::Client& client, const DirectRules& rules, std::shared_ptr<RangeLock> lock);
  ~AlignedEngine() override;

  /// The engine that does the work; it reports completions to this one.
  void set_engine(std::unique_ptr<FileEngine> engine) { engine_ = std::move(engine); }

  std::string name() const override { return engine_->name(); }
  /// Accepts transfers with any number of pieces. EINVAL: a write that is not whole sectors.
  void start(FileOp& op) override;
  void submit() override { engine_->submit(); }
  bool poll() override;

 private:
  struct Step;

  bool takes(const FileOp& op) const;
  bool must_lock(const FileOp& op) const;
  void start_odd(FileOp& op);
  void ended(FileOp& op) override;
  void no_worker(const Error& why) override { client_.no_worker(why); }
  void pass_on_result(FileOp& op);

  Step& take_step(FileOp& op);
  void start_step(FileOp& op, bool bounces);
  void has_lock(Step& step);
  void start_waiting();
  void begin(Step& step);
  void read_tail(Step& step);
  void write(Step& step);
  void transfer(Step& step, FileOp::Kind kind, std::uint64_t offset, const iovec& piece);
  void step_ended(Step& step);
  void finish_transfer(Step& step, std::uint64_t bytes);
  void passed(Step& step);
  void finish(Step& step, ssize_t result);

  void wake() override;
  void take_granted();

  Loop& loop_;
  FileEngine::Client& client_;
  const DirectRules rules_;
  const std::uint64_t step_size_;  // a multiple of the unit
  std::shared_ptr<RangeLock> lock_;

  std::vector<std::unique_ptr<Step>> steps_;
  Step* free_ = nullptr;
  FileOpList waiting_;  // steps, for memory
  std::uint64_t in_use_ = 0;  // bytes
  bool starting_ = false;
  std::shared_ptr<char> alive_ = std::make_shared<char>();

  std::unique_ptr<FileEngine> engine_;
};

}  // namespace outboard::storage
