#pragma once

#include <cstdint>

#include <outboard/vduse/export.hpp>
#include <outboard/vduse/internal/device_phase.hpp>
#include <outboard/vduse/node.hpp>
#include <outboard/virtio/device_state.hpp>

namespace outboard::vduse {

class ConfigCopy;
class DriverSession;
class Groups;
class Messages;
class Queues;

/// Takes over a device whose server was killed: docs/vduse.md, "Crashes and restarts". No request is lost: the requests in flight
/// are those in the journal (docs/journal.md); DeviceCore::restore() delivers them again, before new ones. Control loop, for the
/// duration of one call.
class Adoption {
 public:
  struct Parts {
    virtio::DeviceCore& core;
    Groups& groups;
    Queues& queues;
    ConfigCopy& config;
    Messages& messages;
    DriverSession& session;
    const DevicePhase& phase;
  };
  Adoption(const Parts& parts, Node& node, const Export::Predecessor& predecessor)
      : parts_(parts), node_(node), predecessor_(predecessor) {}

  /// Before messages are handled: reads the pending ones, among them those that the dead server did not answer, and restores
  /// the address space of each group.
  Status prepare();
  /// While messages are watched for, before the first is handled: finds out whether the driver runs, and restores the device to that
  /// state. Errors as Export::adopt.
  Status take_over();

 private:
  /// Whether the driver has reached DRIVER_OK, as the kernel has stored it.
  enum class InKernel : std::uint8_t { runs, does_not_run };

  Result<InKernel> probe(Duration timeout);
  Status restore(InKernel driver);
  Status check_state(const virtio::DeviceState& state);
  bool is_pending(bool (*matches)(std::uint8_t status)) const;

  Parts parts_;
  Node& node_;
  const Export::Predecessor& predecessor_;
};

}  // namespace outboard::vduse
