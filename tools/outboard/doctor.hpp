#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <outboard/vduse/netlink.hpp>

namespace outboard::command {

/// One thing that the machine can do, or not.
struct Finding {
  enum class State : std::uint8_t { ok, missing, denied, low };
  std::string name;    ///< "io_uring"
  std::string use;     ///< what it is good for
  State state;
  std::string detail;  ///< what was found
  std::string cure;    ///< what to run; empty when there is nothing to mend
};

/// Looks at this machine. `root` stands in front of /dev, /proc and /sys, and `netlink` in the place of the kernel's
/// (tests).
std::vector<Finding> examine(const std::string& root = {},
                             const std::shared_ptr<vduse::Netlink>& netlink = vduse::Netlink::of_kernel());

/// System calls that a kernel may lack or a container deny, and that there is a substitute for.
Finding system_calls();

/// Whether interrupts can be signalled to clients without waiting (AsyncSignal).
Finding client_signals();

/// How many mappings a process may have (vm.max_map_count).
Finding mappings(const std::string& root);

/// What VDUSE needs: modules, the control node, the management device, the right to attach.
std::vector<Finding> examine_vduse(const std::string& root, vduse::Netlink& netlink);

/// What real devices need: an IOMMU, modules, nodes, rights.
std::vector<Finding> examine_vfio(const std::string& root);

/// A kernel module, known by what it `adds` to /sys, so that one that is built in counts.
Finding module(const std::string& root, const char* name, const char* adds, std::string use);

/// A device node that has to be there and that we have to be allowed to open.
Finding device_node(const std::string& root, std::string name, std::string use, const char* path, std::string cure);

const char* name_of(Finding::State state);

}  // namespace outboard::command
