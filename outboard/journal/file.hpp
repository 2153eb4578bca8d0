#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/result.hpp>
#include <outboard/memory/address_map.hpp>
#include <outboard/virtio/device_state.hpp>
#include <outboard/virtio/journal.hpp>

namespace outboard::journal {

/// A Journal in a file that is mapped into memory. Its records survive the process, even if that is killed with SIGKILL at any
/// moment. The successor opens the file, calls recover(), passes the state to DeviceCore::restore(), and uses the same object as
/// the core's journal. docs/journal.md has the format, the order of the stores, and what is not recovered.
///
/// Put the file on a tmpfs (/run). A crash of the machine ends the rings too, so nothing has to reach a disk, and a tmpfs has no
/// write-back that could delay the stores. A user who may write to the file can make the device do whatever its driver could; the
/// file is created with mode 0600.
///
/// Threads: the calls of Journal come as documented there; all others on the control loop. Only one process at a time can
/// have the file open.
class File final : public virtio::Journal {
 public:
  /// The device that a file was created for. open() refuses the file of any other device.
  struct Shape {
    /// Identifies the device: bytes that no other device ever has, not even a later one of the same name (VDUSE: device
    /// number, inode number and time of birth of the node). At most max_instance bytes.
    std::vector<std::byte> instance{};
    std::uint32_t device_id = 0;  ///< virtio device ID
    virtio::Features offered{};  ///< all features that are offered to the driver
    std::vector<std::uint16_t> queue_sizes{};  ///< the maximum size of each queue, as in Identity
    std::uint32_t config_size = 0;  ///< bytes of device configuration space
  };
  static constexpr std::size_t max_instance = 256;  ///< bytes
  static constexpr std::size_t max_transport = 1024;  ///< bytes
  static constexpr std::size_t max_storage = 1024;  ///< bytes
  static constexpr std::size_t max_config = 65536;  ///< bytes

  /// A process. The start time distinguishes it from a later one with the same PID.
  struct Process {
    std::int32_t pid = 0;  ///< 0: none
    std::uint64_t start_time = 0;  ///< field 22 of /proc/PID/stat
    friend bool operator==(const Process&, const Process&) = default;
  };

  /// Creates the file, for a device that does not exist yet. Reserves its whole size, so that no later store can fail for lack
  /// of space. EEXIST: the file exists; EINVAL: the shape exceeds a limit; ENOSPC and other errors of the file system. On an error no
  /// file is left behind.
  static Result<std::unique_ptr<File>> create(const std::string& path, const Shape& shape);

  /// Opens the file of a device that may be running, of this version of the format or an earlier one. Changes nothing in it but
  /// the owner's PID and start time.
  ///
  /// ENOENT: there is no such file. EBUSY: another process has it open; the error names it. EBADMSG: it is damaged (too
  /// short, too long, not a journal, never finished, a wrong checksum). ENOTSUP: a later version of the format. ESTALE: from
  /// before the last boot, or of another device (`instance`). EINVAL: of this device, but with another device ID, other
  /// features, queues or another size of the configuration space. Each error says what was found and what was expected.
  static Result<std::unique_ptr<File>> open(const std::string& path, const Shape& expected);

  /// The device that a file was created for: to report how a server differs from its predecessor. Locks and changes nothing.
  /// EBADMSG, ENOTSUP: as open(); ENOENT, EACCES and other errors of the file system.
  static Result<Shape> shape_of(const std::string& path);

  /// Removes the file of a device that does not exist any more. Succeeds if there is no file. Otherwise nothing is removed:
  /// EBUSY: another process has it open; EEXIST: `lives` returns true for the instance in it, so its device exists; EBADMSG: it is
  /// not a journal (a damaged or never finished journal counts as one).
  static Status discard(const std::string& path, const std::function<bool(Bytes instance)>& lives = {});

  /// Unlocks and unmaps; the file stays.
  ~File() override;
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  /// The path given to create() or open().
  const std::string& path() const { return path_; }
  /// The process that had the file open before open(), if it was another one. It has closed the file, but may still be ending.
  Process predecessor() const { return predecessor_; }

  /// The state of the device at the end of its process, for DeviceCore::restore() of a core that has this journal and the same
  /// memory. Reads from the rings which used buffers were published; asks the map's resolver for rings that are not mapped.
  /// Completes in the file the batch that was being published; on an error changes nothing. May be called again, also after
  /// restore() has failed. `queue_memory`: as DeviceCore::Options::queue_memory.
  ///
  /// Queues that were not running have size 0 and are not enabled: no buffer of theirs is in flight. The transport must restore
  /// their registers, and `generation`, which is 0 here. `device` is empty: see Device::restore_nothing().
  ///
  /// EBADMSG: the file is damaged, or does not fit the rings; ENXIO: a ring is not in mapped memory. The message names the
  /// queue and what is wrong.
  Result<virtio::DeviceState> recover(memory::AddressMap& memory,
                                      std::span<memory::AddressMap* const> queue_memory = {});

  /// `lost` is called once, on any thread, when a store finds that the file was truncated. Later records do not survive the
  /// process, so another file should replace this one (DeviceCore::change_journal()). Set it before the device runs. Without
  /// memory::install_fault_guard() a truncated file ends the process with SIGBUS instead.
  void on_lost(std::function<void()> lost) { lost_ = std::move(lost); }

  /// The device status that was stored last: acknowledged to the driver, or about to be. EBADMSG: damaged.
  Result<std::uint8_t> status() const;

  /// Stores the transport's own data about the device: opaque bytes, replaced as a whole. If the process is killed in this call,
  /// the file has the old bytes or the new ones. EINVAL: more than max_transport bytes.
  Status set_transport(Bytes bytes);
  /// Empty if it was never set. EBADMSG: damaged.
  Result<std::vector<std::byte>> transport() const;
  /// Stores, likewise, the device configuration space as the driver sees it, for a transport whose kernel keeps a copy of it for
  /// the driver. EINVAL: more than Shape::config_size.
  Status set_config(Bytes bytes);
  Result<std::vector<std::byte>> config() const;  ///< as transport()

  /// Stores, likewise, the identity of the device's storage (StorageIdentity::encode()), so that a successor with other storage is
  /// refused. EINVAL: more than max_storage. Does nothing if the file has version 1, which has no area for it.
  Status set_storage(Bytes bytes);
  Result<std::vector<std::byte>> storage() const;  ///< as transport(); also empty in a file of version 1

  /// Removes the file, after its device was destroyed. ENOENT: it does not exist any more; other errors of the file system.
  Status remove();

  // Journal
  void popped(unsigned queue, const virtio::InFlight& buffer) override;
  void publishing(unsigned queue, std::span<const virtio::UsedBuffer> batch, std::uint16_t next_used,
                  bool used_wrap) override;
  void published(unsigned queue, std::span<const virtio::UsedBuffer> batch, std::uint16_t next_used,
                 bool used_wrap) override;
  void status_changing(std::uint8_t status, const virtio::Features& accepted) override;
  void queue_starting(unsigned queue, const virtio::QueueState& state, bool packed) override;
  void queue_reset(unsigned queue) override;

 private:
  struct State;
  File(std::string path, std::unique_ptr<State> state);
  void look_after_storing();

  std::string path_;
  std::function<void()> lost_;
  std::atomic<bool> is_lost_{false};
  Process predecessor_{};
  std::unique_ptr<State> state_;
};

}  // namespace outboard::journal
