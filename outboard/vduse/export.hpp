#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/vduse/control.hpp>
#include <outboard/vduse/iotlb.hpp>
#include <outboard/vduse/node.hpp>
#include <outboard/virtio/device.hpp>
#include <outboard/virtio/device_core.hpp>
#include <outboard/virtio/device_state.hpp>

namespace outboard::vduse {

class Interrupts;

/// A virtio device on VDUSE's side of things: answers the kernel's messages, finds the driver's memory, carries kicks in
/// and interrupts out. Knows no device, and no device knows it.
///
/// Life: create(); then, on a node, start() (a device that has just been created) or adopt() (one that lives already, and
/// whose server has died); then messages come, until shut_down(). Attaching the device to the bus is Server's business.
///
/// Threads: the control loop, for everything; interrupts are raised and kicks taken on the queues' loops. Destroyed on the
/// control loop, while the loops of its queues still exist and run; where queues have loops of their own shut_down() has ended
/// before.
class Export final : private virtio::TransportEvents {
 public:
  struct Options {
    virtio::DeviceCore::Options core{};  ///< of what runs the device: features, loops, polling, journal
    std::uint64_t api_version = spec::api_version_0;
    /// API 1: the group of each queue (shorter: group 0). Groups are what an address space is chosen for.
    std::vector<std::uint32_t> groups{};
    std::uint32_t address_spaces = 1;  ///< API 1
    std::uint32_t vendor_id = 0x1af4;
    bool own_bounce = false;  ///< memory of ours as the kernel's bounce buffer; where that is refused, the kernel's own
    /// What has to come to rest before an answer may take so long; then the kernel is told no, or, where it takes no no,
    /// yes. Far below the kernel's msg_timeout.
    Duration budget = std::chrono::seconds(5);
    Log log{};
  };

  /// What the owner is told, on the control loop. None of these may destroy the export.
  struct Events {
    /// The driver has written the status, and it was acknowledged.
    std::function<void(std::uint8_t status)> status{};
    /// The kernel has given the device up, or it was removed: nothing is served any more.
    std::function<void(const Error& why)> gone{};
    /// The kernel's copy of the configuration is this now; empty: it is about to become another one.
    std::function<void(Bytes config)> config{};
    /// The group table is about to be acknowledged as this: the address space of each group.
    std::function<void(const std::vector<std::uint32_t>& spaces)> groups{};
  };

  /// Fails as DeviceCore::create does. Features that VDUSE cannot have are left out here, with a line in the log where the
  /// device itself offers them.
  static Result<std::unique_ptr<Export>> create(std::unique_ptr<virtio::Device> device, Loop& control, Options options);
  ~Export() override;

  void set_events(Events events) { events_ = std::move(events); }

  /// What the device has to be created with.
  DeviceShape shape(const std::string& name);

  virtio::Device& device() { return *device_; }
  virtio::DeviceCore& core() { return *core_; }
  /// Null before start() or adopt(), and once the device is gone.
  Node* node() { return node_.get(); }
  /// Where the journal looks for the rings of a device that is adopted; as DeviceCore::Options has it.
  const std::vector<memory::AddressMap*>& queue_memory() const { return queue_memory_; }
  memory::AddressMap& memory() { return *queue_memory_.front(); }

  /// Sets the queues up and answers messages from now on. For a device that was created and never attached.
  Status start(std::unique_ptr<Node> node);

  /// Where the driver of a device was when its server died.
  struct Living {
    /// Called once the rings can be looked at; an error refuses the device. Empty: nothing is known of it.
    std::function<Result<virtio::DeviceState>()> recover{};
    /// Why nothing is known: the error where the driver runs.
    std::optional<Error> why_not{};
    /// What the kernel's copy of the configuration is; nothing: not known, so it is written anew.
    std::optional<std::vector<std::byte>> config{};
    std::vector<std::uint32_t> address_spaces{};  ///< of each group
    /// How long the kernel may take to notice that DRIVER_OK was acknowledged before it is taken for withdrawn.
    Duration patience{0};
  };
  /// Takes over a device that lives. What was in flight comes first; nothing waits for a kick.
  /// EPERM: the kernel has given it up. ESTALE: it is not as `living` says. With an error nothing has been answered to the
  /// driver, and the node is closed.
  Status adopt(std::unique_ptr<Node> node, Living living);

  /// Comes to rest: finishes what is in flight, closes the node, forgets the driver's memory. The device is left to live
  /// in the kernel. `done` on the control loop; ETIMEDOUT: some I/O goes on.
  void shut_down(std::move_only_function<void(Status)> done);

 private:
  /// What one queue needs here.
  struct Line {
    EventFd kick;
    Registration watch;  ///< of the kick, on the queue's loop
    bool failed = false;  ///< its rings cannot be: it is not run before the next reset
    bool said_unmapped = false;
    spec::VqInfo begun{};  ///< where the driver had put it when it was started
    std::atomic<bool> rests{false};  ///< the driver has stopped it, without a reset, or is about to
    std::optional<virtio::QueueState> rest{};  ///< where, once it does
    bool off = false;  ///< until it is ready again, or the device is reset: a kick does not wake it
    bool kicked = false;  ///< while it came to rest, or the device was being suspended
  };

  Export(std::unique_ptr<virtio::Device> device, Loop& control, Options options);
  Status build();
  unsigned queue_count() const { return core_->queue_count(); }
  std::uint32_t group_of(unsigned queue) const;
  Loop& queue_loop(unsigned queue);
  /// What the driver has accepted says so; before FEATURES_OK it has accepted nothing.
  bool packed() const;

  // Messages: export_messages.cpp.
  Status listen();
  void messages_waiting(Ready ready);
  void take(const spec::Request& request);
  void answer(std::uint32_t id, std::uint32_t result, Bytes payload = {});
  void undo_status();
  void set_status(std::uint32_t id, std::uint8_t status);
  void reset(std::uint32_t id);
  void accept_features(std::uint8_t status);
  void update_iotlb(std::uint32_t id, std::uint32_t asid);
  void iotlb_is_late(std::uint32_t id);
  void set_group_space(std::uint32_t id, const spec::GroupAsidRequest& request);
  void tell_spaces();
  void get_vq_state(std::uint32_t id, std::uint32_t index);
  void give_up(const Error& why);

  // Stopping without a reset: export_pauses.cpp.
  virtio::StopMode stop_mode(unsigned queue) const;
  void rest(unsigned queue, virtio::StopMode mode,
            std::move_only_function<void(const Result<virtio::QueueState>&)> done);
  void rest_late(unsigned queue);
  void kicked_at_rest(unsigned queue);
  void resume(unsigned queue);
  bool goes_on(unsigned queue, const spec::VqInfo& info);
  void set_vq_ready(std::uint32_t id, const spec::VqReadyRequest& request);
  void suspend(std::uint32_t id);
  void undo_suspend(const std::vector<unsigned>& stopped);

  // Queues: export_queues.cpp.
  enum class Setup : unsigned char { running, later, never };
  void start_device(std::uint8_t status);
  Setup set_up(unsigned queue);
  Result<virtio::QueueState> ring_of(unsigned queue, const spec::VqInfo& info) const;
  bool is_mapped(unsigned queue, const virtio::QueueState& ring);
  void connect(unsigned queue);
  void look_for_late_queues();
  void kicked(unsigned queue);
  bool can_rewind(unsigned queue, const virtio::QueueState& state) const;

  // Taking over: export_adopt.cpp.
  Status check_living(const virtio::DeviceState& state);
  Status probe(Duration patience);
  Status take_over(Living& living);

  void stopped(Status stopped, std::move_only_function<void(Status)> done);
  void forget_memory(std::move_only_function<void()> done);
  void publish_config();
  void tell_config();
  void retry_config();

  // virtio::TransportEvents
  void notify_queue(unsigned queue) override;
  void notify_config() override;
  void was_reset() override;

  std::unique_ptr<virtio::Device> device_;
  Loop& control_;
  Options options_;
  Log log_;
  Events events_;
  std::vector<std::unique_ptr<Iotlb>> groups_;
  std::vector<memory::AddressMap*> queue_memory_;  ///< of each queue; at least one
  std::unique_ptr<Interrupts> interrupts_;  ///< outlives what its queues' threads run
  std::unique_ptr<virtio::DeviceCore> core_;
  std::unique_ptr<Node> node_;
  std::vector<std::unique_ptr<Line>> lines_;
  Registration messages_;
  Registration late_;  ///< looks whether queues have become ready
  Duration late_pause_{0};
  Registration budget_;  ///< of the message that is being answered
  Registration config_retry_;
  Duration config_pause_{0};  ///< before the next try
  std::deque<spec::Request> backlog_;  ///< read, and not looked at yet
  std::optional<std::uint32_t> answering_;  ///< the request that has been taken and not answered
  std::function<void()> undo_;  ///< takes back what it has changed: nobody waits for the answer any more
  bool lost_place_ = false;  ///< the device was taken over in a state that says nothing of its queues
  bool suspended_ = false;  ///< until a reset
  bool live_ = false;  ///< DRIVER_OK has been acknowledged, or is about to be
  std::vector<std::byte> config_;  ///< as the kernel has it
  std::shared_ptr<Export*> self_;  ///< what a completion holds weakly
};

}  // namespace outboard::vduse
