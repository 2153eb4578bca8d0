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
class Lane;

/// VIRTIO 1.4, 5.2 Block Device in front of a storage::Backend. README.md beside this file says what was decided where
/// the specification leaves a choice.
///
/// Threads: as virtio::Device. A queue with a loop of its own reaches the storage through Backend::share(). The device
/// must have been stopped before it is destroyed.
class Device final : public virtio::Device {
 public:
  /// What a person chooses about a disk.
  struct Options {
    unsigned queues = 1;             ///< 1...256; more than one offers MQ
    std::uint16_t queue_size = 256;  ///< a power of two, 4...32768
    std::string id = "outboard";     ///< what GET_ID tells, at most 20 bytes: the serial number, for Linux
    std::uint32_t seg_max = 0;       ///< data elements of a request; 0: what the queue size leaves room for
    std::uint32_t size_max = 0;      ///< bytes of one element; 0: no limit, and SIZE_MAX is not offered
    bool discard = true;             ///< offer DISCARD and WRITE_ZEROES (never on read-only storage)
  };

  /// `backend` works on the control loop of whoever runs the device. EINVAL: options outside their ranges, by name.
  static Result<std::unique_ptr<Device>> create(std::unique_ptr<storage::Backend> backend, const Options& options);
  ~Device() override;

  /// The back end's capacity is another one now: the driver is told, and requests beyond the new end fail. Control loop.
  void capacity_changed();

  virtio::Identity identity() const override;
  std::string description() const override;
  StorageIdentity storage() const override { return backend_->identity(); }
  Status attach(virtio::Host& host) override;
  bool accept_features(const virtio::Features& accepted) override;
  void read_config(std::uint32_t offset, MutableBytes into) override;
  void write_config(std::uint32_t offset, Bytes from) override;
  /// Looks at the size of what stands behind the disk, and tells the driver when it is another one. Where it has become
  /// smaller while a driver runs, which may have data there, the disk stays as large as it was, with a line in the log.
  Status reload() override;
  Status start_queue(unsigned queue, const virtio::QueueState& state) override;
  void stop_queue(unsigned queue, virtio::StopMode mode, Completion done) override;
  void discard_queue(unsigned queue) override;
  void handle(virtio::Request request) override;
  void batch_end(unsigned queue) override;
  /// Version 1, 2 bytes: the version, and whether the cache writes back (0 or 1), as the driver sees it in `writeback`.
  Result<std::vector<std::byte>> save_state() override;
  /// Also takes no bytes at all, which is what versions of this device saved that did not know of the cache: as
  /// restore_nothing(). EINVAL: another version, another length, or a cache that writes back though its driver can neither
  /// flush it nor have asked for it.
  Status restore_state(Bytes state) override;
  /// What the driver has agreed to says it, but where it can choose (CONFIG_WCE): there writes go through until it says
  /// otherwise.
  Status restore_nothing() override;
  bool poll(unsigned queue) override;
  void reset() override;

 private:
  Device(std::unique_ptr<storage::Backend> backend, const Options& options);
  void take_features(const virtio::Features& accepted);
  Status resize(std::uint64_t bytes);

  Options options_;
  std::unique_ptr<storage::Backend> backend_;
  std::unique_ptr<Disk> disk_;
  std::vector<std::unique_ptr<Lane>> lanes_;  // one for each queue
  virtio::Host* host_ = nullptr;
};

}  // namespace outboard::blk
