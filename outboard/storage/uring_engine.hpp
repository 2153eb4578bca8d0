#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/file_engine.hpp>
#include <outboard/storage/request_queue.hpp>
#include <outboard/storage/unseen_requests.hpp>

namespace outboard::storage {

/// Where the kernel may begin an operation.
enum class Submission : std::uint8_t {
  /// In the call that submits it, if it need not wait there: for storage that keeps to that (IOCB_NOWAIT). Not a read that is
  /// not in the page cache, whose read-ahead may wait for room in the queue of the disk (it is asked, but for reads that follow
  /// hundreds of others which all were there); and nothing while the storage is slow to answer or has much to do already.
  here,
  on_workers,  ///< on threads of the kernel only
};

/// How to submit to a file.
struct SubmissionRule {
  Submission where = Submission::on_workers;
  /// Requests that this process has begun on the disk and that have not ended: all engines on it share this.
  std::shared_ptr<std::atomic<unsigned>> begun = std::make_shared<std::atomic<unsigned>>(0);
  /// Likewise: what the kernel may have begun besides.
  std::shared_ptr<UnseenRequests> unseen = std::make_shared<UnseenRequests>();
  /// How much of both there may be before the next operation is begun on threads of the kernel, since it might have to wait for
  /// room in the disk's queue.
  unsigned room = 48;
  std::uint64_t request_size = 512 * 1024;  ///< bytes of a request at most: of more the kernel makes several
  std::uint64_t read_ahead = 128 * 1024;  ///< bytes that the kernel reads ahead, in requests of their own
};

/// How much may be begun on a disk with this queue: three quarters of what it has room for, since schedulers keep the last one
/// from writes and others use the disk too; 1...256. 48 where that is unknown.
unsigned room_in(const RequestQueue& queue);

/// How to submit to the file behind `fd`: a block device, or a file on a file system of a disk or in memory, or anything else,
/// which may be at the other end of a network or in another process. Only on a whole disk with a queue of its own, and in memory, may
/// something be begun in the call: of other disks (partitions, RAID) it cannot be known whether there is room, and file systems wait
/// for what they have on the disk themselves. May wait for the storage. Any thread. `sys` is where sysfs is.
SubmissionRule submission_for(int fd, const std::string& sys = "/sys");

/// io_uring, its descriptor watched by the loop. Operations go to the kernel in batches, at submit(). The kernel makes at most
/// 64 threads of each of its two kinds (bounded and unbounded) for the engines of one thread; further operations wait.
class UringEngine final : public FileEngine {
 public:
  /// `direct` is -1 where there is none; both descriptors outlive the engine. EPERM, ENOSYS and others when io_uring is
  /// not permitted here (containers often block it): the kernel is asked by making a ring and using it once.
  static Result<std::unique_ptr<UringEngine>> create(Loop& loop, Client& client, int fd, int direct,
                                                     SubmissionRule rule);
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
