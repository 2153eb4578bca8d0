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

/// What DeviceCore calls in its transport. A call may come from inside a call of the core or of the device, so neither may be
/// destroyed in it.
class TransportEvents {
 public:
  virtual ~TransportEvents() = default;
  /// Used buffers have been published, and the driver wants a notification. On the queue's loop.
  virtual void notify_queue(unsigned queue) = 0;
  /// The configuration or NEEDS_RESET has changed. Control loop.
  virtual void notify_config() = 0;
  /// A device reset has ended: drop pending notifications from before it. Control loop.
  virtual void was_reset() {}
};

/// Whether ACCESS_PLATFORM is offered: the bit says that the platform (an IOMMU) translates the addresses given to the device.
enum class AccessPlatform : std::uint8_t {
  off,  ///< not offered
  on,  ///< offered; a driver that does not accept it is served, too: its addresses are looked up in the same map
  require,  ///< offered; a driver that does not accept it is refused, since its addresses would not be in the map
};

/// When a device goes on from the state of another one.
enum class Restart : std::uint8_t {
  at_once,  ///< before restore() returns
  on_resume,  ///< not before resume(): its driver's memory may not be there yet
};

/// Runs one virtio::Device below any transport: device status, feature negotiation, the queues and their life cycle, the
/// configuration generation, NEEDS_RESET. virtio_pci::Function and vduse::Export use it; they do not depend on a device type,
/// and no device depends on them.
///
/// Control loop, unless a call says otherwise. What a driver writes is not trusted: no call fails because of it. What the
/// specification does not allow is ignored, or the device gets NEEDS_RESET.
class DeviceCore final : private Host {
 public:
  /// Options of create(), from the transport and the server.
  struct Options {
    bool packed = false;  ///< offer RING_PACKED
    bool in_order = false;  ///< offer IN_ORDER
    AccessPlatform access_platform = AccessPlatform::on;  ///< whether it is offered, and required
    bool notification_data = false;  ///< offer NOTIFICATION_DATA (the data are ignored)
    Features without{};  ///< features that are not offered, even if the device has them
    std::vector<Loop*> queue_loops{};  ///< one for each queue; shorter: the control loop for the rest
    bool poll = false;  ///< poll the rings instead of waiting for notifications
    Journal* journal = nullptr;  ///< records the buffers in flight; outlives the core. nullptr: none
    Duration stop_timeout = std::chrono::seconds(2);  ///< see stop(), stop_queue() and reset()
    /// The address map of each queue (null, or shorter: the device's); they outlive the core.
    std::vector<memory::AddressMap*> queue_memory{};
    /// The transport cannot show NEEDS_RESET to the driver (VDUSE): a broken device still answers the requests in flight.
    bool answers_when_broken = false;
    /// A buffer whose memory is not mapped, does not allow the access, or whose chain is malformed does not break the device:
    /// only this request fails (Request::fails_alone()), or the buffer is used with length 0 and the device does not receive
    /// it.
    bool contains_faults = false;
    Log log{};  ///< where the core, its queues and the device log

    /// The loop of a queue.
    Loop& loop_of(unsigned queue, Loop& control) const {
      return queue < queue_loops.size() && queue_loops[queue] != nullptr ? *queue_loops[queue] : control;
    }
  };

  /// `device`, `memory` and `events` outlive the core. EINVAL: the identity is invalid (queue sizes, device ID). Other errors:
  /// those of Device::attach().
  static Result<std::unique_ptr<DeviceCore>> create(Device& device, memory::AddressMap& memory, Loop& control,
                                                    TransportEvents& events, Options options);
  /// Before: queues on loops of their own must have been stopped; if that timed out, their loops must not run any more
  /// (ReactorPool::stop()). Requests that the device still holds have no effect any more. Callbacks of a pending stop, reset or
  /// capture are destroyed without being called. A callback may destroy the core, and then the device.
  ~DeviceCore() override;

  /// Sets Options::journal, for a server that creates the journal after it knows the offered features. Call it before the
  /// driver writes a status.
  void set_journal(Journal& journal);
  /// Replaces the journal, at any time: records the buffers in flight in the new one, then the status. `done` is called on the
  /// control loop when the old journal is not used any more.
  void change_journal(Journal& journal, std::move_only_function<void()> done);

  /// Device::identity(), from when the core was created.
  const Identity& identity() const { return identity_; }
  /// The number of queues, enabled or not.
  unsigned queue_count() const { return static_cast<unsigned>(identity_.queue_sizes.size()); }
  /// The features offered to the driver: those of the device, of the ring and of the transport. Constant.
  const Features& offered() const { return offered_; }

  // VIRTIO 1.4, 2.1 and 3.1: status and features.
  /// The status field, as the driver reads it: bits of spec::status.
  std::uint8_t status() const;
  /// The driver writes the status field. A value other than 0 only adds bits; 0 starts a reset. The reset may end later; until
  /// then status() returns the old value.
  void write_status(std::uint8_t value);
  /// Word `select` of the features that the driver has written; 0 beyond the fourth.
  std::uint32_t driver_features(std::uint32_t select) const;
  /// The driver writes a word of its features. Ignored after FEATURES_OK; checked when the driver sets FEATURES_OK.
  void write_driver_features(std::uint32_t select, std::uint32_t value);
  /// Whether the device is broken: NEEDS_RESET is set, or about to be set. Any thread.
  bool broken() const;

  // 2.5: device configuration space.
  void read_config(std::uint32_t offset, MutableBytes into);  ///< beyond its size: all ones
  void write_config(std::uint32_t offset, Bytes from);  ///< beyond its size: ignored
  /// Differs from the last value if a field that the driver may have read has changed meanwhile (2.5.3). Several changes may
  /// count as one.
  std::uint8_t config_generation();

  // 2.6: queues. An index beyond queue_count() reads 0 and ignores writes.
  /// The maximum size of a queue, in entries, from the identity; 0: no such queue.
  std::uint16_t queue_max_size(unsigned queue) const;
  /// The size that the driver has chosen, in entries.
  std::uint16_t queue_size(unsigned queue) const;
  /// Ignored while the queue is enabled, and if the size is not allowed (2.7, 2.8: a power of two for a split ring).
  void set_queue_size(unsigned queue, std::uint16_t size);
  memory::Iova queue_address(unsigned queue, unsigned area) const;  ///< area 0 descriptors, 1 driver, 2 device
  /// Ignored while the queue is enabled.
  void set_queue_address(unsigned queue, unsigned area, memory::Iova address);
  /// Whether the driver has enabled the queue.
  bool queue_enabled(unsigned queue) const;
  /// Enables a queue. Invalid ring addresses (alignment, overflow) break the device.
  void enable_queue(unsigned queue);
  /// Whether a reset of the queue (RING_RESET) is under way.
  bool queue_resetting(unsigned queue) const;
  /// RING_RESET: stops the queue and disables it, without a timeout; queue_resetting() is true until that has ended. Ignored if
  /// RING_RESET was not negotiated.
  void reset_queue(unsigned queue);

  /// The driver notifies the device of new buffers in a queue. Any thread.
  void kick(unsigned queue);
  /// The same, on the queue's loop: runs the queue at once, without a posted task. For eventfds that are watched on that loop.
  void kick_now(unsigned queue);

  /// Stops every queue, whatever the status. `done` is called when this device accesses no memory any more. ETIMEDOUT: that
  /// takes longer than Options::stop_timeout. After a discard with ETIMEDOUT the device is broken, and the memory stays mapped
  /// until the I/O has ended. After a drain with ETIMEDOUT the queue continues: see stop_queue(), also for ECANCELED.
  void stop(StopMode mode, std::move_only_function<void(Status)> done);
  /// Resets the device other than by the status field (PCI reset, FLR). `done` is called when the reset has ended. ETIMEDOUT:
  /// that takes longer than Options::stop_timeout; I/O from before the reset may still access memory. The reset continues then:
  /// until it ends, the status is not 0 and no queue starts; after_reset() reports the end. `done` may start the driver.
  void reset(std::move_only_function<void(Status)> done);
  /// Calls `ended` when no reset is in progress: at once, or when the current one has ended.
  void after_reset(std::move_only_function<void()> ended);

  /// Stops a queue and returns its state: for suspend, migration and recovery; start_queue() is the counterpart. ETIMEDOUT: the
  /// queue did not stop within Options::stop_timeout. After a drain with ETIMEDOUT the queue continues when the running
  /// requests have ended, unless it is stopped again meanwhile. A discard with ETIMEDOUT continues; another call completes when
  /// it ends. ECANCELED: the drain has become a discard, because of a stop or a reset of the device, and requests were dropped.
  /// A queue that its driver resets counts as drained, with no buffers in flight.
  void stop_queue(unsigned queue, StopMode mode, std::move_only_function<void(Result<QueueState>)> done);
  /// Starts a stopped queue from `state`. EINVAL: the state is not consistent (the message names the field). EBUSY: the queue
  /// is not stopped, or a reset of the device is in progress.
  Status start_queue(unsigned queue, const QueueState& state);

  /// Stops every queue (drain) and returns the state of the whole device. The device stays stopped; it can be resumed, reset, or
  /// destroyed when another device has the state. After an error the device continues, a queue that is late as soon as it has
  /// stopped; a queue that was also stopped by stop_queue() stays stopped. ETIMEDOUT: a queue did not stop within
  /// Options::stop_timeout. EBUSY: another capture is in progress. ECANCELED: the drain has become a discard, or the driver has
  /// started a queue meanwhile. Other errors: those of Device::save_state(). If the driver resets the device meanwhile, the
  /// capture waits for the end of the reset, or ends with ETIMEDOUT after Options::stop_timeout.
  void capture(std::move_only_function<void(Result<DeviceState>)> done);
  /// Continues from the state of another device of this type; the requests in flight are delivered first, as replays. The
  /// memory must be mapped as it was. Since the other device may have been stopped after it published buffers and before it
  /// notified, the driver gets a notification for each queue that runs, and one of a configuration change; they are sent from
  /// the loops, after this call has returned.
  ///
  /// After an error nothing has changed, and the call may be repeated. EBUSY: the device is not in the state that follows a
  /// reset. EINVAL: the state is not consistent, or not of such a device. EIO: a ring is not in mapped memory, or the device
  /// did not start a queue. Other errors: those of Device::restore_state().
  ///
  /// Restart::on_resume: the device stays stopped and accesses no memory until resume(). What only its memory can show is found
  /// there.
  Status restore(const DeviceState& state, Restart restart = Restart::at_once);
  /// The client has left and nothing of the device's is in progress. A device whose storage is lent is reset and lets go; any other
  /// stays as it is.
  void client_left(std::move_only_function<void(const Status&)> done);
  /// After capture(): its state has gone to another process, which may go on as this device. See Device::let_go().
  void let_go();
  /// Continues after capture(), or after restore() with Restart::on_resume; otherwise it does nothing. The driver is notified as by
  /// restore(). EIO: a ring is not in mapped memory, or the device did not start a queue; nothing has changed in the first case, and
  /// in the second the device is broken.
  Status resume();

  /// Sets NEEDS_RESET, as a violation of the driver does: for a transport that finds an error which the device cannot continue
  /// after.
  void break_device(std::string_view what);

  /// Pauses or resumes all queues, as for bus mastering: a paused queue accesses no memory; a resumed one looks at its ring.
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
  std::shared_ptr<State> state_;  ///< shared with tasks that are posted between loops
};

}  // namespace outboard::virtio
