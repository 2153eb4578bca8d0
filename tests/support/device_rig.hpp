#pragma once

#include <bit>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <outboard/testing/hand_driver.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/virtio/device_core.hpp>

namespace outboard::testing {

/// A virtio device whose behaviour is what the test puts into `on_request`. Unless told otherwise it copies the
/// readable part to the writable one, as far as there is room, and completes.
class ScriptedDevice final : public virtio::Device {
 public:
  using StopMode = virtio::StopMode;

  explicit ScriptedDevice(virtio::Identity identity) : identity_(std::move(identity)) {}

  std::function<void(virtio::Request)> on_request = echo;
  std::function<void(StopMode)> on_stop;
  std::vector<unsigned> discarded;  ///< queues whose drain has become a discard
  std::function<Status(unsigned, const virtio::QueueState&)> on_start;
  bool accepts_features = true;
  std::vector<std::byte> config;
  StorageIdentity stored_on;
  std::vector<std::byte> own_state;  ///< what save_state() gives and restore_state() takes
  int state_error = 0;  ///< what both fail with, if not 0
  std::vector<virtio::Request> kept;
  unsigned requests = 0, batches = 0, resets = 0;
  virtio::Host* host = nullptr;

  static void echo(virtio::Request request);
  /// An `on_request` that keeps the token in `kept`.
  std::function<void(virtio::Request)> keep() {
    return [this](virtio::Request request) { kept.push_back(std::move(request)); };
  }

  virtio::Identity identity() const override { return identity_; }
  StorageIdentity storage() const override { return stored_on; }
  Status attach(virtio::Host& with) override {
    host = &with;
    return {};
  }
  bool accept_features(const virtio::Features&) override { return accepts_features; }
  void read_config(std::uint32_t offset, MutableBytes into) override;
  void write_config(std::uint32_t offset, Bytes from) override;
  Status start_queue(unsigned queue, const virtio::QueueState& state) override {
    return on_start ? on_start(queue, state) : Status{};
  }
  void stop_queue(unsigned queue, StopMode mode, Completion done) override;
  void discard_queue(unsigned queue) override { discarded.push_back(queue); }
  void handle(virtio::Request request) override {
    ++requests;
    on_request(std::move(request));
  }
  void batch_end(unsigned) override { ++batches; }
  Result<std::vector<std::byte>> save_state() override {
    if (state_error != 0) return Error(state_error, "as the test wants");
    return own_state;
  }
  Status restore_state(Bytes state) override {
    if (state_error != 0) return Error(state_error, "as the test wants");
    own_state.assign(state.begin(), state.end());
    return {};
  }
  void reset() override { ++resets; }

  /// By default kept tokens are given up when a queue stops.
  bool gives_up_kept = true;

 private:
  virtio::Identity identity_;
};

/// A DeviceCore with everything around it: one or more queues each driven by a HandDriver, in one address map, a loop
/// that the test pumps, and notes of what the transport would have been told.
class DeviceRig final : public virtio::TransportEvents {
 public:
  struct Setup {
    bool packed = false;
    std::uint16_t size = 16;
    unsigned queues = 1;
    virtio::Features without{};
    virtio::Features features{};  ///< the device type's own
    std::uint32_t max_chain = 0;
    std::uint32_t config_size = 8;
    virtio::DeviceCore::Options options{};
  };

  explicit DeviceRig(const Setup& setup);
  ~DeviceRig() override;

  ManualLoop loop;
  memory::AddressMap map{loop};
  ScriptedDevice device;
  std::vector<std::unique_ptr<HandDriver>> drivers;
  std::vector<std::string> log;
  std::vector<Level> log_levels;  ///< of its lines
  std::vector<unsigned> notified;  ///< for each queue
  unsigned config_notified = 0;
  std::function<void(unsigned)> on_notify;
  std::unique_ptr<virtio::DeviceCore> core;

  HandDriver& driver(unsigned queue = 0) { return *drivers[queue]; }

  /// ACKNOWLEDGE, DRIVER, `accepted` and FEATURES_OK. All that is offered, unless given.
  void negotiate();
  void negotiate(const virtio::Features& accepted);
  /// Sets a queue up where its driver has its ring, and enables it.
  void set_up_queue(unsigned queue = 0);
  void driver_ok();
  /// All of the above, with the drivers' memory mapped, and one turn of the loop.
  void run();
  void map_driver(unsigned queue = 0, memory::Access access = memory::Access::read_write);
  /// Unmaps all of a driver's memory; returns whether that has been answered.
  bool unmap_driver(unsigned queue = 0);

  /// A kick, and everything that comes of it.
  void process(unsigned queue = 0);
  void settle() { loop.run_until_idle(); }
  bool needs_reset() const { return (core->status() & virtio::spec::status::needs_reset) != 0; }

  void notify_queue(unsigned queue) override {
    ++notified[queue];
    if (on_notify) on_notify(queue);
  }
  void notify_config() override { ++config_notified; }

 private:
  static virtio::Identity identity(const Setup& setup);
};

}  // namespace outboard::testing
