#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/storage_identity.hpp>
#include <outboard/virtio/features.hpp>
#include <outboard/virtio/queue_state.hpp>
#include <outboard/virtio/request.hpp>

namespace outboard::virtio {

/// What a device is. Constant between device resets.
struct Identity {
  std::uint32_t device_id = 0;  ///< VIRTIO 1.4, chapter 5; 1...63 can be expressed on PCI
  /// The device type's own feature bits, and those ring features that it wants left out or put in. The transport adds
  /// VERSION_1, INDIRECT_DESC, EVENT_IDX and RING_RESET for every device.
  Features features{};
  std::vector<std::uint16_t> queue_sizes{};  ///< one maximum size for each queue; powers of two
  std::uint32_t config_size = 0;  ///< bytes of device configuration space; 0: none
  /// Longest chain the device takes, in elements, where that is more than a queue's maximum size (0: that size). It holds
  /// whatever size the driver chooses: an indirect table may have more entries than a small queue. More is a violation.
  std::uint32_t max_chain = 0;
};

/// How a device speaks back to whoever runs it. Calls come on the control loop, except violation(), which may come from
/// a queue's loop, and log().
class Host {
 public:
  virtual ~Host() = default;

  /// The driver broke rule `clause`: latches NEEDS_RESET until the driver resets the device (VIRTIO 1.4, 2.1.2).
  virtual void violation(std::string_view clause, std::string_view what) = 0;
  /// Bytes of device configuration space have changed: the generation moves on and the driver is notified.
  virtual void config_changed(std::uint32_t offset, std::uint32_t length) = 0;
  /// What the driver accepted; empty before FEATURES_OK.
  virtual Features negotiated() const = 0;
  /// Where the calls of the device come, but for handle() and batch_end().
  virtual Loop& control_loop() = 0;
  /// Where handle() of `queue` comes; may be the control loop. Exists as long as the device is attached.
  virtual Loop& queue_loop(unsigned queue) = 0;
  /// For what a person who serves the device should read. Any thread.
  virtual const Log& log() const = 0;
};

/// A virtio device, written once and served on every transport. The simplest one overrides identity() and handle() and
/// nothing else.
///
/// Threads: handle(), batch_end() and poll() come on the queue's loop; everything else on the control loop. The two are the same
/// unless the device was set up with queue loops of their own; stop_queue is then the only handshake across.
class Device {
 public:
  /// Called once, on the control loop, when what was asked for has been done.
  using Completion = std::move_only_function<void()>;

  virtual ~Device() = default;

  /// What the device is, the same whenever it is asked. Control loop; before attach() too.
  virtual Identity identity() const = 0;

  /// For people: what stands behind the device ("disk.raw, 64 MiB, io_uring"). May be empty.
  virtual std::string description() const { return {}; }

  /// What keeps the device's data, for whoever takes it over after a crash while its driver goes on: with other storage it is
  /// refused. Control loop; asked again after each change of the configuration. By default there is none.
  virtual StorageIdentity storage() const { return {}; }

  /// Once, before anything else. `host` outlives the device's use. An error keeps the device from being served.
  virtual Status attach(Host& /*host*/) { return {}; }

  /// FEATURES_OK was written with a set that satisfies the rules every device shares; false keeps the bit clear. Likewise
  /// when the state of a device is restored whose driver had got there; false refuses the state.
  virtual bool accept_features(const Features& /*accepted*/) { return true; }

  /// Device configuration space. The range lies inside config_size.
  virtual void read_config(std::uint32_t /*offset*/, MutableBytes into) { std::ranges::fill(into, std::byte{0}); }
  /// The driver wrote `from`; a device without writable fields ignores it.
  virtual void write_config(std::uint32_t /*offset*/, Bytes /*from*/) {}

  /// The queue is about to deliver requests: with DRIVER_OK, or when the driver enables it again after a reset of its own.
  /// Host::negotiated() is final. On a replay, `state.in_flight` come first, with replayed() true. An error is logged, and the
  /// device needs a reset.
  virtual Status start_queue(unsigned /*queue*/, const QueueState& /*state*/) { return {}; }

  /// The queue delivers nothing more. Give up what is kept (destroy the tokens: they stay in flight) and, for discard,
  /// cancel what can be cancelled; requests whose work is running are completed as usual. Call `done` when no token of
  /// this queue is kept any more; the queue waits for the running ones itself. The stop may end inside `done`, and whoever waits
  /// for that may destroy the device: touch nothing of it afterwards.
  virtual void stop_queue(unsigned /*queue*/, StopMode /*mode*/, Completion done) { done(); }

  /// A stop that was to drain has become a discard, since the driver has reset the queue or the device: cancel what can be
  /// cancelled. Comes after stop_queue(), and before the queue has come to rest, whether `done` has been called or not.
  virtual void discard_queue(unsigned /*queue*/) {}

  /// One request. Answer it now, or keep the token and answer later.
  virtual void handle(Request request) = 0;

  /// The requests that were available have been handed over; a device that batches its back end's work starts it here.
  virtual void batch_end(unsigned /*queue*/) {}

  /// Comes again and again while the queue polls, whether there were requests or not: a device whose back end can be asked for
  /// what has ended asks it here. Returns whether there was something.
  virtual bool poll(unsigned /*queue*/) { return false; }

  /// What stands behind the device may have changed (a file that has grown, a setting): look again, and tell the driver by
  /// Host::config_changed. Whoever serves the device calls it when a person asks for it (SIGHUP). What may take its time is
  /// only begun here, and a failure of that is in the log.
  virtual Status reload() { return {}; }

  /// What of the device itself, beside its queues and its status, another device object needs to go on: bytes of a layout
  /// that the device type documents and versions. All queues are stopped.
  virtual Result<std::vector<std::byte>> save_state() { return std::vector<std::byte>(); }
  /// What save_state() gave, perhaps in another process, another version, or made up. All queues are stopped; the driver
  /// is taken to be where it was. EINVAL: not understood, and nothing has changed.
  virtual Status restore_state(Bytes state) {
    return state.empty() ? Status() : Status(Error(EINVAL, "the device keeps no state of its own"));
  }

  /// Instead of restore_state(), where the process that ran the device was killed and nobody has asked it for its state.
  /// All that is known is what the driver has agreed to (accept_features() has been called), and its buffers in flight,
  /// which come as replays. A device whose state follows from that, or to which another is as good, goes on. By default
  /// one that saves no state does; for any other EINVAL: what its driver knows of it is lost.
  virtual Status restore_nothing() {
    const auto own = save_state();
    return own && own->empty() ? Status() : Status(Error(EINVAL, "the device's own state was not saved"));
  }

  /// All queues are stopped; return to the power-on state (what a device reset leaves: see the device's chapter).
  virtual void reset() {}
};

}  // namespace outboard::virtio
