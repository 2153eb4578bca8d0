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

/// What became of a value.
struct Answer {
  std::uint32_t result = 0;  ///< the value plus one; the value itself when it was refused
  bool refused = false;      ///< it is larger than the limit
  friend bool operator==(const Answer&, const Answer&) = default;
};

/// The limit, and how often it has changed.
struct Limit {
  std::uint32_t value = 0;  ///< the largest number that is not refused
  std::uint64_t epoch = 0;  ///< changes since the device was made
  friend bool operator==(const Limit&, const Limit&) = default;
};

/// Something that the device tells unasked.
struct Event {
  std::optional<std::uint32_t> refused;  ///< a value that was refused; none: an event of a kind that is not known here
  std::uint32_t missed = 0;  ///< events that were lost before this one
  friend bool operator==(const Event&, const Event&) = default;
};

/// One request, as its caller sees it. The caller owns it and leaves it alone from Driver::submit() until `done`, which
/// comes exactly once, on the driver's loop.
struct Call {
  /// May submit the next call, and this one again; may destroy this one.
  using Done = void (*)(Call& call);

  std::uint32_t value = 0;  ///< the number to add one to
  Done done = nullptr;  ///< required
  void* context = nullptr;  ///< the caller's

  Answer answer{};  ///< when `error` is 0
  /// 0, or a positive errno: EIO (the device has answered nonsense, or is broken), ETIMEDOUT, ENODEV (it has gone),
  /// ECANCELED (the driver was destroyed or started again).
  int error = 0;
};

/// A driver for the example device, over any transport. Move-only.
///
/// Asynchronous by submit() and publish(); where the driver has made its own loop, increment() waits.
///
/// The device may be another process: nothing it does ends the driver. One that asks for a reset, breaks a rule or does
/// not answer in time is reset and left alone: calls fail with EIO until restart().
///
/// One thread, that of its loop. Callbacks may submit and set other callbacks, but must not destroy the driver, move it or
/// restart it.
class Driver {
 public:
  /// What the caller chooses.
  struct Options {
    std::uint16_t depth = 64;  ///< calls in flight, at most
    std::uint16_t events = 16;  ///< buffers kept with the device for events
    bool limit = true;  ///< accept LIMIT
    bool packed = true;  ///< accept RING_PACKED
    bool poll = false;  ///< do not use interrupts: the loop looks at the queues all the time
    /// nullptr: one of the driver's own, which increment() pumps. Outlives the driver.
    Loop* loop = nullptr;
    /// How long a call may take, roughly; then the device counts as broken. 0: for ever.
    Duration deadline = std::chrono::seconds(10);
    Log log{};  ///< where the driver says why a device counts as broken
  };

  /// Resets and starts the device. ENODEV: not an example device, or not VIRTIO 1.x. EINVAL: a depth of 0. The transport
  /// outlives the driver.
  static Result<Driver> start(virtio::Transport& transport, const Options& options);
  /// The transport is the driver's.
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

  /// The other one is good for nothing afterwards but to be assigned to or destroyed.
  Driver(Driver&&) noexcept;
  /// As above; what this one drove is reset first.
  Driver& operator=(Driver&&) noexcept;
  ~Driver();

  /// What was negotiated.
  const virtio::Features& features() const;
  /// Whether LIMIT was negotiated.
  bool has_limit() const;
  /// As the device says now. ENOTSUP without LIMIT.
  Result<Limit> limit() const;
  /// Calls that can be in flight at once: Options::depth, or what the queue has room for.
  std::uint16_t depth() const;
  /// Whether the device is broken, and needs restart().
  bool broken() const;

  /// Called on the loop, from now on. An event that was there before is not repeated.
  void on_event(std::function<void(const Event&)> callback);
  /// Called when the device says that the limit has changed.
  void on_limit(std::function<void(const Limit&)> callback);

  /// Takes a call; the device need not see it before publish(). With an error `done` is not called. EAGAIN: depth() calls are in
  /// flight. EIO: broken.
  Status submit(Call& call);
  /// Shows the device what was submitted. Not needed in a callback: the driver does it afterwards.
  void publish();
  /// Takes what the device has done; returns how many calls were completed. For a caller that polls; harmless else.
  unsigned poll();

  /// One value, waiting for the answer. EDEADLK from inside a callback of the loop; ENOTSUP where the loop is the
  /// caller's; other errors as Call::error.
  Result<Answer> increment(std::uint32_t value);

  /// Resets the device and starts it again. Calls in flight end with ECANCELED.
  Status restart();

  /// Where everything of the driver runs.
  Loop& loop() const;
  /// For another event loop, where the driver has made its own: readable when process() has something to do. -1 else.
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
