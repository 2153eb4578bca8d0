#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <outboard/base/result.hpp>

namespace outboard::vduse {

/// What can put devices on the vDPA bus.
struct ManagementDevice {
  std::string bus;   ///< empty: none
  std::string name;  ///< "vduse", "0000:01:00.0"
  std::uint64_t device_ids = 0;  ///< a bit for each virtio device ID that it is known to take
};

/// The vDPA bus by generic netlink. An interface, so that a test can be a kernel that refuses. Any thread; each call has a
/// socket of its own.
///
/// Every call blocks: while any device is added or removed by anyone, all users of this family wait, and add() and
/// remove() take as long as a driver's whole probe or removal. ENOENT from any: there is no such family here (the module
/// vdpa is not loaded, or this is not the initial network namespace).
class Netlink {
 public:
  virtual ~Netlink() = default;

  /// Anyone may ask.
  virtual Result<std::vector<ManagementDevice>> management_devices() = 0;
  /// Puts the VDUSE device `name` on the bus. Success says nothing about a driver's probe. EPERM: no CAP_NET_ADMIN in the
  /// initial user namespace; ENODEV: no management device for VDUSE; EEXIST: the name is taken on the bus; EINVAL: no such
  /// VDUSE device, or a queue of it was never set up; EOPNOTSUPP, ENOMEM. The kernel's own text, if any, is in the error.
  virtual Status add(const std::string& name) = 0;
  /// Takes it off. EPERM; ENODEV: it is not there.
  virtual Status remove(const std::string& name) = 0;

  /// The kernel's.
  static std::shared_ptr<Netlink> of_kernel();
};

/// What an answer of the kernel to add() and remove() means. `text`: what it said itself; may be empty.
Error add_error(int code, const std::string& name, const std::string& text);
Error remove_error(int code, const std::string& name, const std::string& text);

}  // namespace outboard::vduse
