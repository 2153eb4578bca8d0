#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/vduse/export.hpp>
#include <outboard/vduse/internal/device_phase.hpp>
#include <outboard/vduse/node.hpp>
#include <outboard/virtio/device_core.hpp>

namespace outboard::vduse {

class ConfigCopy;
class Groups;
class Interrupts;
class Messages;
class Queues;

/// What drivers ask of the device by the kernel's messages, from one reset to the next: status, memory, queues. It moves the
/// phase of the device. Control loop.
class DriverSession {
 public:
  /// What a session works with; all of it outlives the session.
  struct Parts {
    virtio::DeviceCore& core;
    Groups& groups;
    Queues& queues;
    Interrupts& interrupts;
    ConfigCopy& config;
    Messages& messages;
    DevicePhase& phase;
    const Export::Options& options;
    const Export::Events& events;
  };
  explicit DriverSession(const Parts& parts);

  /// The kernel's side from now on; null: none.
  void use(Node* node) { node_ = node; }
  /// Does what a message asks for, and answers it, now or later.
  void handle(const spec::Request& request);
  /// The one place where the phase of the device changes. Whether it did.
  bool move(DeviceEvent event);

 private:
  void answer(std::uint32_t id, bool is_done);
  bool has_address_spaces() const { return options_.api_version != spec::api_version_0; }

  // SET_STATUS.
  void set_status(std::uint32_t id, std::uint8_t status);
  bool take_status(std::uint8_t status);
  void accept_features(std::uint8_t status);
  void start_device(std::uint8_t status);
  void undo_driver_ok();
  void undo_status();
  void reset(std::uint32_t id);
  void end_reset(std::uint32_t id, const Status& stopped);
  void acknowledge_reset(std::uint32_t id, bool is_done);

  // UPDATE_IOTLB, SET_VQ_GROUP_ASID.
  void update_iotlb(std::uint32_t id, std::uint32_t asid);
  void fail_late_update(std::uint32_t id);
  void set_group_asid(std::uint32_t id, const spec::GroupAsidRequest& request);
  void undo_group_asid(std::uint32_t group, std::uint32_t before);
  void tell_address_spaces();

  // GET_VQ_STATE, SET_VQ_READY, SUSPEND.
  void get_vq_state(std::uint32_t id, std::uint32_t index);
  void set_vq_ready(std::uint32_t id, const spec::VqReadyRequest& request);
  void suspend(std::uint32_t id);
  void end_suspend(std::uint32_t id, const Status& rested, const std::vector<unsigned>& stopped);
  void undo_suspend(const std::vector<unsigned>& stopped);

  virtio::DeviceCore& core_;
  Groups& groups_;
  Queues& queues_;
  Interrupts& interrupts_;
  ConfigCopy& config_;
  Messages& messages_;
  DevicePhase& phase_;
  const Export::Options& options_;
  const Export::Events& events_;
  const Log& log_;
  Node* node_ = nullptr;
  std::shared_ptr<DriverSession*> self_;  ///< what a completion holds weakly
};

}  // namespace outboard::vduse
