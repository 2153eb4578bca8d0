#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/vduse/node.hpp>
#include <outboard/virtio/device_core.hpp>

namespace outboard::vduse {

/// The kernel's copy of a device's configuration space, which is what the driver reads. Control loop.
class ConfigCopy {
 public:
  /// `changed`: the kernel's copy is this now; empty: it is about to become another one.
  ConfigCopy(virtio::DeviceCore& core, Loop& control, Log log, std::function<void(Bytes)> changed);

  /// The kernel's side from now on; null: none.
  void use(Node* node) { node_ = node; }
  /// What the kernel has; empty: not known, so the next publish() writes all of it.
  void assume(std::vector<std::byte> copy) { copy_ = std::move(copy); }
  /// Writes what has changed.
  void publish();

  /// Tells the driver of a change. Its driver is at DRIVER_OK; for a moment after that the kernel refuses, and is asked again.
  void interrupt();
  /// The driver is not at DRIVER_OK any more.
  void stop_interrupting() { retry_.reset(); }

 private:
  void try_interrupt();

  virtio::DeviceCore& core_;
  Loop& control_;
  Log log_;
  std::function<void(Bytes)> changed_;
  Node* node_ = nullptr;
  std::vector<std::byte> copy_;  ///< as the kernel has it
  Registration retry_;
  Duration pause_{0};  ///< before the next try
};

}  // namespace outboard::vduse
