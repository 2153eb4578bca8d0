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

namespace outboard::virtio {

/// A Journal in a file that is mapped into memory: what it was told survives the process that is killed at any moment, even
/// with SIGKILL. Its successor opens the file, asks for the state that the device was in, gives that to
/// DeviceCore::restore(), and goes on with the same object as the core's journal. docs/journal.md has the format, the order
/// of the stores, and what is not recovered.
///
/// Put it on a tmpfs (/run): a crash of the machine ends the rings too, so nothing has to reach a disk, and no write-back
/// disturbs the stores. Whoever may write to the file can make the device do what its driver could; it is made for its
/// owner alone.
///
/// Threads: as Journal says for its calls; all others on the control loop. One process has a file open at a time.
class JournalFile final : public Journal {
 public:
  /// What a file was made for. A file that was made for anything else is refused.
  struct Shape {
    /// Which device of which transport this is: bytes that no other device will ever have, not one of the same name
    /// either (VDUSE: device and inode number of the node and its time of birth). At most max_instance.
    std::vector<std::byte> instance{};
    std::uint32_t device_id = 0;  ///< virtio device ID
    Features offered{};  ///< all that the driver is shown
    std::vector<std::uint16_t> queue_sizes{};  ///< the maximum of each queue, as Identity has them
    std::uint32_t config_size = 0;  ///< bytes of device configuration space
  };
  static constexpr std::size_t max_instance = 256;  ///< bytes
  static constexpr std::size_t max_transport = 1024;  ///< bytes
  static constexpr std::size_t max_storage = 1024;  ///< bytes
  static constexpr std::size_t max_config = 65536;  ///< bytes

  /// A process, named so that another one with the same number is not taken for it.
  struct Process {
    std::int32_t pid = 0;  ///< 0: none
    std::uint64_t start_time = 0;  ///< field 22 of /proc/PID/stat
    friend bool operator==(const Process&, const Process&) = default;
  };

  /// Makes the file, for a device that does not exist yet: in whole, so that no store finds the file system full later.
  /// EEXIST: there is a file; ENOSPC and whatever else the file system says; EINVAL: the shape has too much of something.
  /// Nothing is left behind with an error.
  static Result<std::unique_ptr<JournalFile>> create(const std::string& path, const Shape& shape);

  /// Opens the file of a device that may be running, of this version of the format or an earlier one. Nothing but the owner's
  /// name is changed in it.
  ///
  /// ENOENT: there is no such file. EBUSY: another process has it open, and which. EBADMSG: it is damaged (too short, too
  /// long, no such file at all, never finished, checksum). ENOTSUP: of a later version of the format. ESTALE: from before
  /// this machine was started, or of another device (`instance`). EINVAL: of this device, but with another device ID, other
  /// features, queues or another size of the configuration space. Each says what it found and what it wanted.
  static Result<std::unique_ptr<JournalFile>> open(const std::string& path, const Shape& expected);

  /// What a file was made for: to say how a server differs from the one before it. Nothing is locked or changed. ENOENT, EACCES
  /// and whatever else the file system says; EBADMSG, ENOTSUP: as open().
  static Result<Shape> shape_of(const std::string& path);

  /// Removes the file of a device that is no more; where there is none, well. Before anything is removed: EBUSY: another
  /// process has it open; EEXIST: `lives` says of the instance in it that its device is there; EBADMSG: it is no such file
  /// (one that was never finished counts as one, a damaged one too).
  static Status discard(const std::string& path, const std::function<bool(Bytes instance)>& lives = {});

  /// Unlocks and unmaps; the file stays.
  ~JournalFile() override;
  JournalFile(const JournalFile&) = delete;
  JournalFile& operator=(const JournalFile&) = delete;

  /// As it was given.
  const std::string& path() const { return path_; }
  /// Who had the file before open(), if that was another process; it has let go of the file, and may still be on its way
  /// out.
  Process predecessor() const { return predecessor_; }

  /// The state that the device was in, for DeviceCore::restore() of a core that has this journal and the same memory. Reads
  /// in the rings how far the driver has been told; asks the map's resolver for rings that are not mapped. Completes in the
  /// file what was being published, and nothing if it fails; may be called again, also after a restore() that failed.
  /// `queue_memory`: as DeviceCore::Options has it.
  ///
  /// Queues that were not running are left out (size 0, not enabled): nothing of them is in flight; where their registers
  /// matter the transport asks whoever keeps them. So it is with `generation`, which is 0. `device` is empty: see
  /// Device::restore_nothing().
  ///
  /// EBADMSG: the file is damaged, or does not fit the rings; ENXIO: a ring is in no memory of the map. The message names
  /// the queue and what is wrong with it.
  Result<DeviceState> recover(memory::AddressMap& memory, std::span<memory::AddressMap* const> queue_memory = {});

  /// Called once, on whatever thread finds out, when somebody has truncated the file: what is noted from then on is lost with
  /// this process, and another file should take its place (DeviceCore::change_journal()). Before the device runs. Without
  /// memory::install_fault_guard() such a file ends the process instead.
  void on_lost(std::function<void()> lost) { lost_ = std::move(lost); }

  /// The last status that was about to be acknowledged. EBADMSG.
  Result<std::uint8_t> status() const;

  /// What a transport has to know about a device beside what the core knows: an opaque area, replaced as a whole, and after
  /// a kill either the old one or the new one. EINVAL: more than max_transport bytes.
  Status set_transport(Bytes bytes);
  /// Empty if it was never set. EBADMSG: damaged.
  Result<std::vector<std::byte>> transport() const;
  /// Likewise the device configuration space as the driver sees it, where somebody else keeps a copy of it for the driver.
  /// EINVAL: more than Shape::config_size.
  Status set_config(Bytes bytes);
  Result<std::vector<std::byte>> config() const;  ///< as transport()

  /// Likewise which storage stands behind the device (StorageIdentity::encode()): the driver's data are nowhere else. EINVAL:
  /// more than max_storage. A file of a version without room for it stays without.
  Status set_storage(Bytes bytes);
  Result<std::vector<std::byte>> storage() const;  ///< as transport(); empty, too, where there is no room for it

  /// Removes the file, when the device is no more. ENOENT: somebody has done so; what else the file system says.
  Status remove();

  // Journal
  void popped(unsigned queue, const InFlight& buffer) override;
  void publishing(unsigned queue, std::span<const UsedBuffer> batch, std::uint16_t next_used, bool used_wrap) override;
  void published(unsigned queue, std::span<const UsedBuffer> batch, std::uint16_t next_used, bool used_wrap) override;
  void status_changing(std::uint8_t status, const Features& accepted) override;
  void queue_starting(unsigned queue, const QueueState& state, bool packed) override;
  void queue_reset(unsigned queue) override;

 private:
  struct State;
  JournalFile(std::string path, std::unique_ptr<State> state);
  void look_after_storing();

  std::string path_;
  std::function<void()> lost_;
  std::atomic<bool> is_lost_{false};
  Process predecessor_{};
  std::unique_ptr<State> state_;
};

}  // namespace outboard::virtio
