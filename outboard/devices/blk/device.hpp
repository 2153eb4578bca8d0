#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <outboard/devices/blk/layout.hpp>
#include <outboard/storage/backend.hpp>
#include <outboard/virtio/device.hpp>

namespace outboard::blk {

class Disk;
class RequestQueue;

/// VIRTIO 1.4, 5.2 Block Device, on a storage::Backend. README.md beside this file lists the decisions where the
/// specification leaves a choice.
///
/// Threads: as virtio::Device. A queue with a loop of its own reaches the storage through Backend::share(). The device
/// must have been stopped before it is destroyed.
class Device final : public virtio::Device {
 public:
  /// The options of a disk.
  struct Options {
    unsigned queues = 1;             ///< 1...256; more than one offers MQ
    std::uint16_t queue_size = 256;  ///< a power of two, 4...32768
    std::string id = "outboard";     ///< the answer to GET_ID, at most 20 bytes: the serial number in Linux
    std::uint32_t seg_max = 0;       ///< data elements of a request; 0: as many as the queue has room for
    std::uint32_t size_max = 0;      ///< bytes of one element; 0: no limit, and SIZE_MAX is not offered
    bool discard = true;             ///< offer DISCARD and WRITE_ZEROES (never on read-only storage)
  };

  /// `backend` lives on the control loop of the device. EINVAL: an option outside its range; the error names it.
  static Result<std::unique_ptr<Device>> create(std::unique_ptr<storage::Backend> backend, const Options& options);
  ~Device() override;

  /// Tells the driver that the capacity of the back end has changed; requests beyond the new end fail. Control loop.
  void capacity_changed();

  virtio::Identity identity() const override;
  std::string description() const override;
  StorageIdentity storage() const override { return backend_->identity(); }
  Status attach(virtio::Host& host) override;
  bool accept_features(const virtio::Features& accepted) override;
  void read_config(std::uint32_t offset, MutableBytes into) override;
  void write_config(std::uint32_t offset, Bytes from) override;
  /// Measures the storage, and tells the driver if its size has changed. If it has become smaller while a driver runs, which
  /// may have data there, the disk keeps its size, with a line in the log.
  Status reload() override;
  Status start_queue(unsigned queue, const virtio::QueueState& state) override;
  void stop_queue(unsigned queue, virtio::StopMode mode, Completion done) override;
  void discard_queue(unsigned queue) override;
  void handle(virtio::Request request) override;
  void batch_end(unsigned queue) override;
  /// Version 1, 2 bytes: the version, and whether the cache writes back (0 or 1), as the driver sees it in `writeback`.
  Result<std::vector<std::byte>> save_state() override;
  /// Also accepts no bytes, as earlier versions of this device saved them: the same as restore_nothing(). EINVAL: another
  /// version or length, or a cache that writes back although its driver can neither flush it nor have chosen it.
  Status restore_state(Bytes state) override;
  /// The accepted features determine the cache. If the driver can choose it (CONFIG_WCE), the disk writes through until the
  /// driver chooses again.
  Status restore_nothing() override;
  void let_go() override { backend_->let_go(); }
  Status take_back() override { return backend_->take_back(); }
  bool is_lent() const override { return backend_->is_lent(); }
  bool poll(unsigned queue) override;
  void reset() override;

 private:
  Device(std::unique_ptr<storage::Backend> backend, const Options& options);
  void take_features(const virtio::Features& accepted);
  Status resize(std::uint64_t bytes);

  Options options_;
  std::unique_ptr<storage::Backend> backend_;
  std::unique_ptr<Disk> disk_;
  std::vector<std::unique_ptr<RequestQueue>> queues_;  // one for each queue
  virtio::Host* host_ = nullptr;
};

}  // namespace outboard::blk
