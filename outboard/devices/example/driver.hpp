#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/devices/example/layout.hpp>
#include <outboard/virtio/transport.hpp>

namespace outboard::example {

/// The answer to a value.
struct Answer {
  std::uint32_t result = 0;  ///< the value plus one; if refused, the value itself
  bool refused = false;      ///< it is larger than the limit
  friend bool operator==(const Answer&, const Answer&) = default;
};

/// The limit, and how often it has changed.
struct Limit {
  std::uint32_t value = 0;  ///< the largest number that is not refused
  std::uint64_t epoch = 0;  ///< changes since the device was made
  friend bool operator==(const Limit&, const Limit&) = default;
};

/// An event of the device.
struct Event {
  std::optional<std::uint32_t> refused;  ///< a value that was refused; none: an unknown kind of event
  std::uint32_t missed = 0;  ///< events that were lost before this one
  friend bool operator==(const Event&, const Event&) = default;
};

/// A request. The caller owns it and must not touch it from Driver::submit() until `done`, which is called exactly
/// once, on the driver's loop.
struct Call {
  /// May submit calls, this one included; may destroy this one.
  using Done = void (*)(Call& call);

  std::uint32_t value = 0;  ///< the number to add one to
  Done done = nullptr;  ///< required
  void* context = nullptr;  ///< the caller's

  Answer answer{};  ///< when `error` is 0
  /// 0, or a positive errno: EIO (an invalid answer, or the device is broken), ETIMEDOUT, ENODEV (it has gone),
  /// ECANCELED (the driver was destroyed or started again).
  int error = 0;
};

/// A driver for the example device, over any transport. Move-only.
///
/// Asynchronous calls: submit() and publish(). If the driver has made its own loop, increment() blocks.
///
/// The device may be another process and cannot end the driver. A device that asks for a reset, breaks a rule or does not
/// answer in time is reset, and calls fail with EIO until restart().
///
/// One thread, that of its loop. Callbacks may submit and set other callbacks, but must not destroy, move or restart the
/// driver.
class Driver {
 public:
  /// The options of the driver.
  struct Options {
    std::uint16_t depth = 64;  ///< calls in flight, at most
    std::uint16_t events = 16;  ///< buffers kept with the device for events
    bool limit = true;  ///< accept LIMIT
    bool packed = true;  ///< accept RING_PACKED
    bool poll = false;  ///< do not use interrupts: busy-poll the queues
    /// nullptr: one of the driver's own, which increment() runs. It must outlive the driver.
    Loop* loop = nullptr;
    /// Approximate timeout of a call; when it expires, the device counts as broken. 0: none.
    Duration timeout = std::chrono::seconds(10);
    Log log{};  ///< why a device counts as broken is logged here
  };

  /// Resets and starts the device. ENODEV: not an example device, or not VIRTIO 1.x. EINVAL: a depth of 0. The transport
  /// outlives the driver.
  static Result<Driver> start(virtio::Transport& transport, const Options& options);
  /// The driver owns the transport.
  static Result<Driver> start(std::unique_ptr<virtio::Transport> transport, const Options& options);
  /// On anything that a transport can be opened on, as pci::Handle; it outlives the driver.
  template <typename Function>
    requires requires(Function& function) { open_virtio_transport(function); }
  static Result<Driver> start(Function& function, const Options& options) {
    OUTBOARD_TRY(auto transport, open_virtio_transport(function));
    return start(std::move(transport), options);
  }
  /// With default options.
  template <typename Function>
    requires requires(Function& function) { open_virtio_transport(function); }
  static Result<Driver> start(Function& function) {
    return start(function, Options{});
  }

  /// The moved-from driver may only be assigned to or destroyed.
  Driver(Driver&&) noexcept;
  /// As above; resets the device that this driver drove before.
  Driver& operator=(Driver&&) noexcept;
  ~Driver();

  /// The negotiated features.
  const virtio::Features& features() const;
  /// Whether LIMIT was negotiated.
  bool has_limit() const;
  /// The current limit of the device. ENOTSUP: without LIMIT.
  Result<Limit> limit() const;
  /// Calls that can be in flight at once: Options::depth, or fewer if the queue has less room.
  std::uint16_t depth() const;
  /// Whether the device is broken, and needs restart().
  bool broken() const;

  /// Sets a callback for events, on the loop. Earlier events are not repeated.
  void on_event(std::function<void(const Event&)> callback);
  /// Sets a callback for changes of the limit.
  void on_limit(std::function<void(const Limit&)> callback);

  /// Takes a call; the device need not see it before publish(). With an error `done` is not called. EAGAIN: depth() calls are in
  /// flight. EIO: broken.
  Status submit(Call& call);
  /// Makes the submitted calls available to the device. Not needed in a callback: the driver does it afterwards.
  void publish();
  /// Completes the calls that the device has used, and returns their number. For callers that poll; otherwise harmless.
  unsigned poll();

  /// Sends a value and waits for the answer. EDEADLK: called from a callback of the loop. ENOTSUP: the loop is the
  /// caller's. Other errors as Call::error.
  Result<Answer> increment(std::uint32_t value);

  /// Resets the device and starts it again. Calls in flight end with ECANCELED.
  Status restart();

  /// The loop of the driver.
  Loop& loop() const;
  /// Readable when process() has something to do, for another event loop. -1: the loop is the caller's.
  int fd() const;
  /// Does what can be done without waiting. Own loop only (ENOTSUP).
  Status process();
  /// Waits at most `timeout` for something to happen, and does it. Own loop only (ENOTSUP).
  Status wait(Duration timeout);

 private:
  class Core;
  explicit Driver(std::unique_ptr<Core> core);
  std::unique_ptr<Core> core_;
};

}  // namespace outboard::example
