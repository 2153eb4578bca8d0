#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include <outboard/memory/address_map.hpp>
#include <outboard/virtio/device.hpp>
#include <outboard/virtio/device_state.hpp>
#include <outboard/virtio/journal.hpp>
#include <outboard/virtio/queue_state.hpp>

namespace outboard::virtio {

class DeviceQueue;

/// What a transport does for a running device. Called in the middle of what the core and the device do: neither may be
/// destroyed in it.
class TransportEvents {
 public:
  virtual ~TransportEvents() = default;
  /// Used buffers are there to be seen. On the queue's loop.
  virtual void notify_queue(unsigned queue) = 0;
  /// The configuration or NEEDS_RESET has changed. Control loop.
  virtual void notify_config() = 0;
  /// A device reset has ended: nothing that was raised before it is pending any more. Control loop.
  virtual void was_reset() {}
};

/// What a device says about ACCESS_PLATFORM: that the addresses it is given go through the platform's mapping (an IOMMU).
enum class AccessPlatform : std::uint8_t {
  off,  ///< not offered
  on,  ///< offered; a driver that does not accept it is served too. Its addresses are looked up in the same map
  require,  ///< offered; a driver that does not accept it is refused, as its addresses would mean nothing here
};

/// Runs one virtio::Device below any transport: the status state machine, feature negotiation, the queues and their
/// life cycle, configuration generation, the broken latch. virtio_pci::Function and vduse::Export are its clients;
/// neither knows a device, and no device knows them.
///
/// Control loop, unless a call says otherwise. What a driver writes is data of a peer: nothing here fails because of
/// it, what the specification does not allow is ignored or latches NEEDS_RESET.
class DeviceCore final : private Host {
 public:
  /// How the transport, and whoever serves the device, want it run.
  struct Options {
    bool packed = false;  ///< offer RING_PACKED
    bool in_order = false;  ///< offer IN_ORDER
    AccessPlatform access_platform = AccessPlatform::on;  ///< what is offered, and insisted on
    bool notification_data = false;  ///< offer NOTIFICATION_DATA (the data are not needed here and not looked at)
    Features without{};  ///< features to leave out whatever the device offers
    std::vector<Loop*> queue_loops{};  ///< one for each queue; shorter: the control loop for the rest
    bool poll = false;  ///< look at the rings all the time instead of waiting for notifications
    Journal* journal = nullptr;  ///< told of what is popped and published; outlives the core. nullptr: none
    Duration stop_deadline = std::chrono::seconds(2);  ///< see stop(), stop_queue() and reset()
    /// Address spaces of their own, one for each queue (null, or shorter: the device's); they outlive the core.
    std::vector<memory::AddressMap*> queue_memory{};
    /// The transport cannot tell the driver that the device is broken (VDUSE): what is in flight then is still answered.
    bool answers_when_broken = false;
    /// Nor is it a reason to break that a buffer lies in memory that is not there, or may not be accessed like that, or that
    /// its chain is none: such a buffer fails alone (Request::fails_alone), or goes back unseen with used length 0.
    bool contains_faults = false;
    Log log{};  ///< where the core, its queues and the device log

    /// Where a queue's calls come.
    Loop& loop_of(unsigned queue, Loop& control) const {
      return queue < queue_loops.size() && queue_loops[queue] != nullptr ? *queue_loops[queue] : control;
    }
  };

  /// `device`, `memory` and `events` outlive the core. Fails as Device::attach does, or EINVAL for an identity that is
  /// not well-formed (queue sizes, device ID).
  static Result<std::unique_ptr<DeviceCore>> create(Device& device, memory::AddressMap& memory, Loop& control,
                                                    TransportEvents& events, Options options);
  /// Queues on loops of their own must have been stopped. Requests that the device still has do nothing any more. Whoever
  /// waits for a stop, a reset or a capture is not told: the callbacks are destroyed with the core. One that is running may
  /// destroy it, and then the device.
  ~DeviceCore() override;

  /// Options::journal, for those who can make it only when they know what is offered. Before the driver writes a status.
  void set_journal(Journal& journal);
  /// Another one, at any time: it is told what is in flight now, and the status when that is done. `done` on the control loop,
  /// when nobody uses the old one any more.
  void change_journal(Journal& journal, std::move_only_function<void()> done);

  /// As the device gave it when the core was made.
  const Identity& identity() const { return identity_; }
  /// Queues that the device has, whether they are enabled or not.
  unsigned queue_count() const { return static_cast<unsigned>(identity_.queue_sizes.size()); }
  /// What the driver is shown: the device's bits, and those of the ring and the transport. Constant.
  const Features& offered() const { return offered_; }

  // VIRTIO 1.4, 2.1 and 3.1: status and features.
  /// The status field, as the driver reads it: bits of spec::status.
  std::uint8_t status() const;
  /// A write to the status field: bits are only added, but for 0, which starts a reset. The reset may end later; until
  /// then status() reads what it was.
  void write_status(std::uint8_t value);
  /// The word `select` of what the driver has written; 0 beyond the fourth.
  std::uint32_t driver_features(std::uint32_t select) const;
  /// The driver accepts features. Taken before FEATURES_OK only; judged when that is set.
  void write_driver_features(std::uint32_t select, std::uint32_t value);
  /// Whether a violation has been latched: NEEDS_RESET is set, or about to be. Any thread.
  bool broken() const;

  // 2.5: device configuration space.
  void read_config(std::uint32_t offset, MutableBytes into);  ///< beyond its size: all ones
  void write_config(std::uint32_t offset, Bytes from);  ///< beyond its size: ignored
  /// Moves on when something that the driver may have read has changed since (2.5.3). Not counted per change.
  std::uint8_t config_generation();

  // 2.6: queues. An index beyond queue_count() reads 0 and ignores writes.
  /// Entries, as the identity says: what the driver may choose up to. 0: no such queue.
  std::uint16_t queue_max_size(unsigned queue) const;
  /// Entries, as the driver has chosen.
  std::uint16_t queue_size(unsigned queue) const;
  /// Ignored while the queue is enabled, and for a size that is not allowed (2.7, 2.8: a power of two for a split ring).
  void set_queue_size(unsigned queue, std::uint16_t size);
  memory::Iova queue_address(unsigned queue, unsigned area) const;  ///< area 0 descriptors, 1 driver, 2 device
  /// Ignored while the queue is enabled.
  void set_queue_address(unsigned queue, unsigned area, memory::Iova address);
  /// Whether the driver has enabled the queue.
  bool queue_enabled(unsigned queue) const;
  /// Ring addresses that a ring cannot have (alignment, wrapping) break the device.
  void enable_queue(unsigned queue);
  /// Whether a reset of the queue (RING_RESET) is under way.
  bool queue_resetting(unsigned queue) const;
  /// RING_RESET: stops the queue and disables it; queue_resetting() until then, however long. Ignored if not negotiated.
  void reset_queue(unsigned queue);

  /// The driver says that a queue has new buffers. Any thread.
  void kick(unsigned queue);
  /// On the queue's loop: the same without a detour. For eventfds that are watched there.
  void kick_now(unsigned queue);

  /// Stops every queue, whatever status says; `done` comes when nothing of this device touches memory any more, or says
  /// ETIMEDOUT when that takes longer than Options::stop_deadline. What was told to discard is broken then, and its memory
  /// stays mapped until the I/O has ended. A queue that is late for a drain goes on: see stop_queue(), and
  /// there ECANCELED.
  void stop(StopMode mode, std::move_only_function<void(Status)> done);
  /// A device reset from outside the status field (PCI reset, FLR). `done` comes when it has ended, or says ETIMEDOUT when
  /// that takes longer than Options::stop_deadline: I/O of before the reset may then still touch memory. The reset is not
  /// given up: until it ends the status is not 0 and no queue starts, and after_reset() tells of the end. The driver may be
  /// started from `done`.
  void reset(std::move_only_function<void(Status)> done);
  /// Calls `ended` when no reset is under way: at once, or when the one that is has ended.
  void after_reset(std::move_only_function<void()> ended);

  /// State of a queue that has been stopped, and the way back. For suspend and migration and recovery. ETIMEDOUT: the
  /// queue did not come to rest within Options::stop_deadline. A drain is undone then: the queue finishes what runs, and
  /// goes on from there, unless it is stopped again meanwhile. A discard goes on; who asks again is told when it ends.
  /// ECANCELED, of a drain: it has become a discard, for a stop or a reset of the device, and requests were given up. A queue
  /// that its driver resets counts as drained, and nothing of it is in flight.
  void stop_queue(unsigned queue, StopMode mode, std::move_only_function<void(Result<QueueState>)> done);
  /// EINVAL: the state is not consistent (the message names the field). EBUSY: the queue is not at rest, or a reset of the
  /// device is still in progress.
  Status start_queue(unsigned queue, const QueueState& state);

  /// Brings every queue to rest (drain) and takes the whole device's state. The device stays at rest, and can be reset, or
  /// destroyed when the state lives elsewhere. With an error the device goes on as if nobody had asked, a queue that is
  /// late once it has come to rest; but a queue that somebody else has stopped too stays at rest. ETIMEDOUT: a queue did not
  /// come to rest. EBUSY: another capture is in progress. ECANCELED: the drain has become a discard, or the driver has
  /// started a queue meanwhile. What Device::save_state says. A device that its driver resets meanwhile is captured when the
  /// reset has ended; ETIMEDOUT where that takes longer than Options::stop_deadline.
  void capture(std::move_only_function<void(Result<DeviceState>)> done);
  /// Goes on where another device of this type was captured; requests that were in flight come first, as replays. The
  /// memory must be mapped as it was. Whoever ran the device before may have been stopped between publishing and telling:
  /// the driver gets a notification for each queue that runs, and one of a configuration change, from the loops and after
  /// this call has returned.
  ///
  /// With an error nothing has changed, and another attempt may be made. EBUSY: not in the state that follows a reset.
  /// EINVAL: not a state of such a device, or not consistent. EIO: a ring is in no memory, or the device did not start a
  /// queue. What Device::restore_state says.
  Status restore(const DeviceState& state);

  /// The transport has found that the device cannot be trusted any more: as a violation of the driver's, NEEDS_RESET.
  void break_device(std::string_view what);

  /// Bus mastering and the like: while paused no queue touches memory; resumed queues look at their rings.
  void set_paused(bool paused);

 private:
  struct State;
  explicit DeviceCore(Identity identity);

  // Host
  void violation(std::string_view clause, std::string_view what) override;
  void config_changed(std::uint32_t offset, std::uint32_t length) override;
  Features negotiated() const override;
  Loop& control_loop() override;
  Loop& queue_loop(unsigned queue) override;
  const Log& log() const override;

  Identity identity_;
  Features offered_;
  std::shared_ptr<State> state_;  ///< shared with what is on its way between loops
};

}  // namespace outboard::virtio
