#pragma once

#include <optional>
#include <string>
#include <vector>

#include <outboard/base/internal/file_holder.hpp>
#include <outboard/vduse/bus.hpp>
#include <outboard/vduse/node.hpp>

namespace outboard::command {

/// A VDUSE device.
struct VduseDevice {
  std::string name;
  bool attached = false;
  std::optional<vduse::BusChild> child;
  std::vector<std::string> users;         ///< of its disk: see vduse::Bus::users_of
  std::optional<Holder> server;           ///< the process that has its node open, if this user may see it
  /// The journal that its server was told to use, or the default one if it exists; empty: none.
  std::string journal;
};

/// All VDUSE devices of this machine. `root` is put in front of /dev, /proc, /run and /sys (tests).
std::vector<VduseDevice> vduse_devices(const std::string& root = {});

/// One line for each.
std::string vduse_text(const std::vector<VduseDevice>& devices);
std::string vduse_json(const std::vector<VduseDevice>& devices);

}  // namespace outboard::command
