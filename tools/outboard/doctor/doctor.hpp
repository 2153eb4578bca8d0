#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <outboard/vduse/internal/netlink.hpp>

namespace outboard::command {

/// Something that the machine can do or cannot do.
struct Finding {
  enum class State : std::uint8_t { ok, missing, denied, low };
  std::string name;    ///< "io_uring"
  std::string use;     ///< what needs it
  State state;
  std::string detail;  ///< what was found
  std::string cure;    ///< what to do; empty if the state is ok
};

/// Examines this machine. Tests give a folder that is put in front of /dev, /lib, /proc and /sys, and their own netlink.
std::vector<Finding> examine(const std::string& root = {},
                             const std::shared_ptr<vduse::Netlink>& netlink = vduse::Netlink::of_kernel());

/// The system calls that a kernel may lack or a container deny, and that have a substitute.
Finding system_calls();

/// Whether interrupts can be signalled to clients without waiting (AsyncSignal).
Finding client_signals();

/// How many mappings a process may have (vm.max_map_count).
Finding mappings(const std::string& root);

/// What VDUSE needs: modules, the control node, the management device, the right to attach.
std::vector<Finding> examine_vduse(const std::string& root, vduse::Netlink& netlink);

/// What real devices need: an IOMMU, modules, nodes, rights.
std::vector<Finding> examine_vfio(const std::string& root);

/// A kernel module. It is loaded, or built in, if what it `adds` to /sys exists. `option`: that of the kernel's configuration.
Finding module(const std::string& root, const char* name, const char* option, const char* adds, std::string use);

/// How to load a module: by modprobe if the running kernel has it, else what is missing.
std::string load_module(const std::string& root, const std::string& name, const std::string& option);

/// The cure for a right that this process lacks. Root lacks one only in a container.
std::string gain_right(std::string_view as_user, std::string_view in_container);

/// A device node that must exist and that this process must be allowed to open.
Finding device_node(const std::string& root, std::string name, std::string use, const char* path, std::string cure);

const char* name_of(Finding::State state);

}  // namespace outboard::command
