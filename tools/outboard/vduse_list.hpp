#pragma once

#include <optional>
#include <string>
#include <vector>

#include <outboard/base/file_holder.hpp>
#include <outboard/vduse/bus.hpp>
#include <outboard/vduse/node.hpp>

namespace outboard::command {

/// What is known of one VDUSE device.
struct VduseDevice {
  std::string name;
  bool attached = false;
  std::optional<vduse::BusChild> child;
  std::vector<std::string> users;         ///< of its disk: see vduse::Bus::users_of
  std::optional<Holder> server;           ///< who has its node open, as far as this user may see it
  /// Where its journal is, as its server was told or in its usual place; empty: there is none.
  std::string journal;
};

/// All of this machine. `root` stands in front of /dev, /proc, /run and /sys (tests).
std::vector<VduseDevice> vduse_devices(const std::string& root = {});

/// One line for each.
std::string vduse_text(const std::vector<VduseDevice>& devices);
std::string vduse_json(const std::vector<VduseDevice>& devices);

}  // namespace outboard::command
