#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>
#include <outboard/vduse/node_file.hpp>
#include <outboard/vduse/spec.hpp>

namespace outboard::vduse {

/// One VDUSE device's node, /dev/vduse/NAME: its messages, and each of its ioctls wrapped once. An interface, so that a
/// test can be a kernel that no real one can be made to be (testing::FakeVduse).
///
/// Any thread may call any of them; none blocks. EPERM from any: the kernel has given the device up for good (a message
/// was not answered in time), and nothing but removing and creating it again helps.
class Node {
 public:
  virtual ~Node() = default;

  /// Readable while a message waits. Ready::hangup: given up, as EPERM above.
  virtual int fd() const = 0;
  /// The next message, or nothing when there is none.
  virtual Result<std::optional<spec::Request>> read() = 0;
  /// Answers a message. ENOENT: nobody waits for the answer any more, and the kernel takes it for a refusal.
  virtual Status reply(const spec::Response& response) = 0;

  /// What the driver has accepted; meaningful from FEATURES_OK on. Not checked by the kernel.
  virtual Result<std::uint64_t> driver_features() = 0;
  /// Changes the kernel's copy of the device configuration space. EINVAL: beyond its end, or nothing.
  virtual Status set_config(std::uint32_t offset, Bytes bytes) = 0;
  /// EINVAL: the kernel's status lacks DRIVER_OK.
  virtual Status inject_config_interrupt() = 0;

  /// Before the device is attached. EINVAL: no such queue or group.
  virtual Status set_up_queue(std::uint32_t index, std::uint16_t max_size, std::uint32_t group) = 0;
  /// Where the rings are. `state` is what the driver has set at the start: it does not move on.
  virtual Result<spec::VqInfo> queue_info(std::uint32_t index) = 0;
  /// The eventfd that the driver's notifications go to; null: none. To be set again after each reset.
  virtual Status set_kick(std::uint32_t index, const EventFd* kick) = 0;
  /// EINVAL: the kernel's status lacks DRIVER_OK, which it also does for a moment after DRIVER_OK has been answered.
  virtual Status inject_interrupt(std::uint32_t index) = 0;

  /// Memory behind I/O virtual addresses, as the kernel's table has it.
  struct Region {
    std::uint64_t start = 0;
    std::uint64_t last = 0;  ///< inclusive
    std::uint64_t offset = 0;  ///< of `start` in `fd`
    std::uint8_t perm = 0;  ///< bits of spec::perm
    UniqueFd fd;
  };
  /// The lowest region that has an address of start...last. Nothing: there is none (nor is there in an address space that
  /// the device does not have). EINVAL: start is beyond last, or another address space than 0 with API version 0; EMFILE,
  /// ENFILE: no descriptor was left for it; EACCES: a security module forbids that file; EPROTO: the kernel's answer is none.
  virtual Result<std::optional<Region>> find_region(std::uint32_t asid, std::uint64_t start, std::uint64_t last) = 0;
  /// The same without its descriptor; `offset` and `perm` are not told, `capability` is. EINVAL: start is beyond last, or
  /// the device has no such address space.
  struct RegionInfo {
    std::uint64_t start = 0;
    std::uint64_t last = 0;
    std::uint64_t capability = 0;  ///< bits of spec::capability
  };
  virtual Result<std::optional<RegionInfo>> region_info(std::uint32_t asid, std::uint64_t start,
                                                        std::uint64_t last) = 0;
  /// `memory` (page-aligned, the whole bounce region's size) becomes the bounce buffer at `iova`. EINVAL: there is no such
  /// region yet, or it is another; EEXIST: there is one; ENOMEM: not that much may be locked.
  virtual Status register_memory(std::uint32_t asid, std::uint64_t iova, MutableBytes memory) = 0;
  /// ENOENT: none is registered; EINVAL: another one is.
  virtual Status unregister_memory(std::uint32_t asid, std::uint64_t iova, MutableBytes memory) = 0;
};

/// Where the kernel's nodes are; a test has a directory of its own.
inline constexpr const char* device_folder = "/dev/vduse";

/// EINVAL: a name that VDUSE cannot have or should not: [A-Za-z0-9_.-]{1,64}, not `control`, `.` or `..`.
Status check_name(std::string_view name);

/// Opens the node of a device that exists. EBUSY: somebody else has it open, and the error says who where that can be
/// seen; ENOENT, ENODEV: no such device (any more), or no such node; EACCES; EPERM: given up by the kernel.
/// `api_version`: what it was created with, if that is known.
Result<std::unique_ptr<Node>> open_node(const std::string& name, std::optional<std::uint64_t> api_version = {},
                                        const std::string& folder = device_folder);
/// The same for a descriptor that somebody else has opened and handed over. ENODEV: not such a node.
Result<std::unique_ptr<Node>> adopt_node(UniqueFd fd, std::optional<std::uint64_t> api_version = {});
/// The same on system calls that may be a test's. `name` is what errors are about.
Result<std::unique_ptr<Node>> node_on(std::unique_ptr<NodeFile> file, std::string name,
                                      std::optional<std::uint64_t> api_version = {});

/// Waits for the node of a device that has just been created. `pause` waits a little and says whether to go on; it may be
/// asked a number of times that it bounds. ENOENT: it did not come.
Status wait_for_node(const std::string& name, const std::function<bool()>& pause,
                     const std::string& folder = device_folder);

}  // namespace outboard::vduse
