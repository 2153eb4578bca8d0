#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/internal/storage_identity.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/virtio/features.hpp>
#include <outboard/virtio/queue_state.hpp>
#include <outboard/virtio/request.hpp>

namespace outboard::virtio {

/// The properties of a device. Constant between device resets.
struct Identity {
  std::uint32_t device_id = 0;  ///< VIRTIO 1.4, chapter 5; 1...63 can be expressed on PCI
  /// The feature bits of the device type. DeviceCore adds VERSION_1, INDIRECT_DESC, EVENT_IDX and RING_RESET for every device;
  /// VDUSE leaves RING_RESET out, since the vDPA bus has no message for it.
  Features features{};
  std::vector<std::uint16_t> queue_sizes{};  ///< the maximum size of each queue; powers of two
  std::uint32_t config_size = 0;  ///< bytes of device configuration space; 0: none
  /// The longest chain that the device accepts, in elements; 0, or less than a queue's maximum size: that size. It does not
  /// depend on the size that the driver chooses, so an indirect table may have more entries than the queue. A longer chain is a
  /// violation.
  std::uint32_t max_chain = 0;
};

/// What a device can call. Call it on the control loop, except violation(), which may also be called on a queue's loop, and
/// log().
class Host {
 public:
  virtual ~Host() = default;

  /// The driver broke rule `clause` (see Request::violation()): sets NEEDS_RESET until the driver resets the device (VIRTIO
  /// 1.4, 2.1.2).
  virtual void violation(std::string_view clause, std::string_view what) = 0;
  /// Bytes of device configuration space have changed: increments the generation and notifies the driver.
  virtual void config_changed(std::uint32_t offset, std::uint32_t length) = 0;
  /// The features that the driver has accepted; empty before FEATURES_OK.
  virtual Features negotiated() const = 0;
  /// The loop on which all calls of the device are made, except handle(), batch_end() and poll().
  virtual Loop& control_loop() = 0;
  /// The loop on which handle(), batch_end() and poll() of `queue` are called; may be the control loop. Exists as long as the
  /// device is attached.
  virtual Loop& queue_loop(unsigned queue) = 0;
  /// The log, for messages to the administrator. Any thread.
  virtual const Log& log() const = 0;
};

/// A virtio device, written once and served on every transport. The simplest one overrides identity() and handle() and
/// nothing else.
///
/// Threads: handle(), batch_end() and poll() are called on the queue's loop, everything else on the control loop. The two are
/// the same unless the server gives queues loops of their own; stop_queue() is then the only handshake between them.
class Device {
 public:
  /// To be called once, on the control loop, when the operation has ended.
  using Completion = std::move_only_function<void()>;

  virtual ~Device() = default;

  /// The properties of the device; every call returns the same. Control loop; also before attach().
  virtual Identity identity() const = 0;

  /// Describes the device's storage or the like to an administrator ("disk.raw, 64 MiB, io_uring"). May be empty.
  virtual std::string description() const { return {}; }

  /// The identity of the device's storage. A server that takes the device over after a crash refuses other storage. Control
  /// loop; called again after each change of the configuration. By default: no storage.
  virtual StorageIdentity storage() const { return {}; }

  /// Called once, before all calls but identity(), description() and storage(). `host` outlives the device's use. After an
  /// error the device is not served.
  virtual Status attach(Host& /*host*/) { return {}; }

  /// The driver has written FEATURES_OK, and `accepted` satisfies the rules that all devices share. Return false to keep the
  /// bit clear. Also called when the state of a device with FEATURES_OK is restored; false refuses the state.
  virtual bool accept_features(const Features& /*accepted*/) { return true; }

  /// Reads device configuration space. The range lies inside config_size.
  virtual void read_config(std::uint32_t /*offset*/, MutableBytes into) { std::ranges::fill(into, std::byte{0}); }
  /// The driver wrote `from`; a device without writable fields ignores it.
  virtual void write_config(std::uint32_t /*offset*/, Bytes /*from*/) {}

  /// The queue is about to deliver requests: at DRIVER_OK, or when the driver enables it again after a reset of the queue.
  /// Host::negotiated() is final. The buffers in `state.in_flight` are delivered first, with replayed() true. An error is
  /// logged, and the device needs a reset.
  virtual Status start_queue(unsigned /*queue*/, const QueueState& /*state*/) { return {}; }

  /// The queue delivers no more requests. Destroy the tokens that the device keeps (they stay in flight); with
  /// StopMode::discard, also cancel the work that can be cancelled. Requests whose work is running are completed as usual; the
  /// queue waits for them. Call `done` when the device keeps no token of this queue. `done` may end the stop, whose completion
  /// may destroy the device: access no member after it.
  virtual void stop_queue(unsigned /*queue*/, StopMode /*mode*/, Completion done) { done(); }

  /// A stop with StopMode::drain has become a discard, since the driver has reset the queue or the device: cancel the work that
  /// can be cancelled. Called after stop_queue() and before the stop has ended, whether `done` has been called or not.
  virtual void discard_queue(unsigned /*queue*/) {}

  /// One request. Answer it now, or keep the token and answer later.
  virtual void handle(Request request) = 0;

  /// All requests that were available have been passed to handle(). A device that batches the work of its back end submits it
  /// here.
  virtual void batch_end(unsigned /*queue*/) {}

  /// Called repeatedly while the queue polls, with or without new requests. A device that can poll its back end for completions
  /// does so here. Returns whether there was a completion.
  virtual bool poll(unsigned /*queue*/) { return false; }

  /// The storage or a setting outside of the device may have changed (a file that has grown): read it again, and notify the
  /// driver by Host::config_changed(). The server calls it on SIGHUP. An operation that may take long is only started here; its
  /// failure is logged.
  virtual Status reload() { return {}; }

  /// The device's own state, beside its queues and its status, from which another device object can continue: bytes of a layout
  /// that the device type documents and versions. All queues are stopped.
  virtual Result<std::vector<std::byte>> save_state() { return std::vector<std::byte>(); }
  /// Restores what save_state() returned, perhaps in another process or version; the bytes may also be invalid. All queues are
  /// stopped. EINVAL: invalid or unknown; the device has not changed.
  virtual Status restore_state(Bytes state) {
    return state.empty() ? Status() : Status(Error(EINVAL, "the device keeps no state of its own"));
  }

  /// Another process may go on as this device, and use its storage: all queues are stopped, and their state and save_state()
  /// have been taken. Until take_back() the device uses nothing that others might.
  virtual void let_go() {}
  /// Whether what the device uses is another process's, too: when its client leaves, the device is reset and lets go.
  virtual bool is_lent() const { return false; }
  /// This object goes on, or another device's state has been restored to it. Called before queues are started; most calls come
  /// without a let_go() before. After an error no queue is started. EBUSY: another process uses what the device needs.
  virtual Status take_back() { return {}; }

  /// Called instead of restore_state() if the process that ran the device was killed, so that save_state() was not called. Only
  /// the accepted features (accept_features() has been called) and the buffers in flight, which are delivered as replays, are
  /// known. Succeeds if the device can continue from that. By default: success for a device that saves no state, EINVAL for any
  /// other.
  virtual Status restore_nothing() {
    const auto own = save_state();
    return own && own->empty() ? Status() : Status(Error(EINVAL, "the device's own state was not saved"));
  }

  /// Returns to the state after a device reset (see the device's chapter). All queues are stopped.
  virtual void reset() {}
};

}  // namespace outboard::virtio
