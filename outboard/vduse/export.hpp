#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/vduse/control.hpp>
#include <outboard/vduse/node.hpp>
#include <outboard/virtio/device.hpp>
#include <outboard/virtio/device_core.hpp>
#include <outboard/virtio/device_state.hpp>

namespace outboard::vduse {

class ConfigCopy;
class DriverSession;
class Groups;
class Interrupts;
class Messages;
class Queues;
enum class DevicePhase : std::uint8_t;

/// Serves a virtio device to the kernel's VDUSE: answers the kernel's messages, maps the driver's memory, passes kicks on to
/// the device and its interrupts to the kernel. Depends on no device type, and no device depends on it.
///
/// Life: create(); then, on a node, start() (a device that has just been created) or adopt() (one that exists already, and
/// whose server has died); then messages are answered, until shut_down(). Attaching the device to the vDPA bus is Server's
/// task.
///
/// Threads: the control loop, for every call; interrupts are raised and kicks taken on the queues' loops. Destroyed on the
/// control loop, while the loops of its queues still exist. Where queues have loops of their own, shut_down() has ended without
/// an error before, or these loops no longer run (ReactorPool::stop()).
class Export final : private virtio::TransportEvents {
 public:
  struct Options {
    virtio::DeviceCore::Options core{};  ///< how the device is run: features, loops, polling, journal
    std::uint64_t api_version = spec::api_version_0;
    /// API 1: the group of each queue (shorter: group 0). A driver chooses an address space for each group.
    std::vector<std::uint32_t> groups{};
    std::uint32_t address_spaces = 1;  ///< API 1
    std::uint32_t vendor_id = 0x1af4;
    /// Gives the kernel memory of this process as its bounce buffer; if the kernel refuses that, it uses its own.
    bool own_bounce = false;
    /// How long I/O may hold up the answer to UPDATE_IOTLB; then the device is stopped and the answer is no. Keep it far below
    /// the kernel's msg_timeout.
    Duration answer_timeout = std::chrono::seconds(5);
    Log log{};
  };

  /// Events for the owner, called on the control loop. A handler must not destroy the export.
  struct Events {
    /// The driver has written the status, and it was acknowledged.
    std::function<void(std::uint8_t status)> status{};
    /// The kernel has given the device up, or the device was removed: nothing is served any more.
    std::function<void(const Error& why)> gone{};
    /// The kernel's copy of the configuration has been changed to `config`; empty: it is about to change.
    std::function<void(Bytes config)> config{};
    /// The address space of each group, before the change is acknowledged.
    std::function<void(const std::vector<std::uint32_t>& spaces)> groups{};
  };

  /// Fails as DeviceCore::create does, or if the eventfds of the kicks cannot be made. Leaves out features that VDUSE does not
  /// support, with a line in the log if the device itself offers them.
  static Result<std::unique_ptr<Export>> create(std::unique_ptr<virtio::Device> device, Loop& control, Options options);
  ~Export() override;

  void set_events(Events events) { events_ = std::move(events); }

  /// The argument of Control::create() for this device.
  DeviceShape shape(const std::string& name);

  virtio::Device& device() { return *device_; }
  virtio::DeviceCore& core() { return *core_; }
  /// Null before start() or adopt(), and once the device is gone.
  Node* node() { return node_.get(); }
  /// The memory of each queue, where the journal finds the rings of a device that is adopted; as DeviceCore::Options has it.
  const std::vector<memory::AddressMap*>& queue_memory() const { return queue_memory_; }
  memory::AddressMap& memory() { return *queue_memory_.front(); }

  /// Sets the queues up, and answers messages from then on. For a device that was created and never attached. Errors: those of
  /// Node::set_up_queue() and Loop::watch().
  Status start(std::unique_ptr<Node> node);

  /// What is known of the previous server of the device, and of its driver.
  struct Predecessor {
    /// Returns the state of the device; called once its rings can be read. An error refuses the device. Empty: the state is not
    /// known.
    std::function<Result<virtio::DeviceState>()> recover{};
    /// Why the state is not known: the error of adopt() if the driver runs.
    std::optional<Error> unknown_because{};
    /// The kernel's copy of the configuration; nothing: not known, so all of it is written again.
    std::optional<std::vector<std::byte>> config{};
    std::vector<std::uint32_t> address_spaces{};  ///< of each group
    /// How long adopt() waits for the kernel to store a DRIVER_OK that was acknowledged. After that it counts as withdrawn.
    Duration driver_ok_timeout{0};
  };
  /// Takes over a device whose server has died. The requests in flight are delivered first; queues do not wait for a kick.
  /// EPERM: the kernel has given the device up. ESTALE: the device is not in the state of `predecessor`. Other errors: those of
  /// Predecessor::recover, DeviceCore::restore() and the calls of Node. After an error no message has been answered, and the
  /// node is closed.
  Status adopt(std::unique_ptr<Node> node, const Predecessor& predecessor);

  using Done = std::move_only_function<void(Status)>;
  /// Stops serving: completes the requests in flight, closes the node, unmaps the driver's memory. The device stays in the
  /// kernel. `done` is called on the control loop. ETIMEDOUT: some I/O still runs.
  void shut_down(Done done);

 private:
  Export(std::unique_ptr<virtio::Device> device, Loop& control, Options options);
  Status build();
  Status build_core(const std::vector<Loop*>& loops);
  std::vector<Loop*> queue_loops() const;

  Status connect();
  void disconnect();
  void lose(const Error& why);
  void end_after_drain(Status drained, Done done);
  void end(Status stopped, Done done);

  // virtio::TransportEvents
  void notify_queue(unsigned queue) override;
  void notify_config() override;
  void was_reset() override;

  std::unique_ptr<virtio::Device> device_;
  Loop& control_;
  Options options_;
  Log log_;
  Events events_;
  DevicePhase phase_{};  ///< moved by the session
  std::unique_ptr<Groups> groups_;
  std::vector<memory::AddressMap*> queue_memory_;  ///< of each queue; at least one
  std::unique_ptr<Interrupts> interrupts_;  ///< outlives what its queues' threads run
  std::unique_ptr<virtio::DeviceCore> core_;
  std::unique_ptr<Node> node_;
  std::unique_ptr<Queues> queues_;
  std::unique_ptr<ConfigCopy> config_;
  std::unique_ptr<Messages> messages_;
  std::unique_ptr<DriverSession> session_;
  std::shared_ptr<Export*> self_;  ///< what a completion holds weakly
};

}  // namespace outboard::vduse
