#pragma once

#include <functional>
#include <memory>
#include <string>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/vduse/bus.hpp>
#include <outboard/vduse/control.hpp>
#include <outboard/vduse/node.hpp>

namespace outboard::vduse {

/// Takes a device without a server (a dead server left it) off the bus, and destroys it. Blocks while the driver lets go
/// of it, and answers the kernel's messages meanwhile.
///
/// Nothing is changed, and the error says what is to be done first, where somebody would lose something: EBUSY: a process
/// serves it; it is in use (a mounted file system, swap, a device that stands on it, a process that has it open); or requests
/// are in flight, which only its server can finish. ENOENT: there is no such device; EACCES, EPERM;
/// what keeps the disk from being opened to see whether it is used.
class Removal {
 public:
  struct Options {
    std::string folder = device_folder;
    std::string journal{};  ///< goes with the device; empty: none
    /// Opens the node; by default open_node().
    std::function<Result<std::unique_ptr<Node>>(const std::string& name)> open{};
    /// Waits, and says whether to go on: while the kernel still has the device in use. By default the thread sleeps.
    std::function<bool(Duration)> pause{};
    Log log{};
  };
  Removal(Bus& bus, Control& control, Options options);

  Status remove(const std::string& name);

 private:
  Status check_idle(const std::string& name, const std::string& disk) const;
  Result<UniqueFd> claim_unused(const std::string& name);
  Status take_off(const std::string& name, std::unique_ptr<Node> node);
  Status destroy(const std::string& name);

  Bus& bus_;
  Control& control_;
  Options options_;
};

}  // namespace outboard::vduse
