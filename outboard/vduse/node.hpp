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
#include <outboard/vduse/internal/node_file.hpp>
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
  /// Answers a message. ENOENT: the kernel does not wait for the answer any more, and has treated the message as refused.
  virtual Status reply(const spec::Response& response) = 0;

  /// The features that the driver has accepted; valid from FEATURES_OK on. The kernel does not check them.
  virtual Result<std::uint64_t> driver_features() = 0;
  /// Changes the kernel's copy of the device configuration space. EINVAL: beyond its end, or nothing.
  virtual Status set_config(std::uint32_t offset, Bytes bytes) = 0;
  /// EINVAL: the kernel's status lacks DRIVER_OK.
  virtual Status inject_config_interrupt() = 0;

  /// Before the device is attached. EINVAL: no such queue or group.
  virtual Status set_up_queue(std::uint32_t index, std::uint16_t max_size, std::uint32_t group) = 0;
  /// The addresses of the rings. `state` has the position that the driver has set at the start, not the current one.
  virtual Result<spec::VqInfo> queue_info(std::uint32_t index) = 0;
  /// The eventfd that the driver's notifications go to; null: none. To be set again after each reset.
  virtual Status set_kick(std::uint32_t index, const EventFd* kick) = 0;
  /// EINVAL: the kernel's status lacks DRIVER_OK, which it also does for a moment after DRIVER_OK has been answered.
  virtual Status inject_interrupt(std::uint32_t index) = 0;

  /// Memory at I/O virtual addresses, from the kernel's table.
  struct Region {
    std::uint64_t start = 0;
    std::uint64_t last = 0;  ///< inclusive
    std::uint64_t offset = 0;  ///< of `start` in `fd`
    std::uint8_t perm = 0;  ///< bits of spec::perm
    UniqueFd fd;
  };
  /// The lowest region that overlaps start...last. nullopt: there is none (also in an address space that the device does not
  /// have). EINVAL: start is beyond last, or another address space than 0 with API version 0; EMFILE,
  /// ENFILE: no descriptor was left for it; EACCES: a security module forbids that file; EPROTO: the kernel's answer is none.
  virtual Result<std::optional<Region>> find_region(std::uint32_t asid, std::uint64_t start, std::uint64_t last) = 0;
  /// The same without the descriptor, `offset` and `perm`, but with `capability`. EINVAL: start is beyond last, or the device
  /// has no such address space.
  struct RegionInfo {
    std::uint64_t start = 0;
    std::uint64_t last = 0;
    std::uint64_t capability = 0;  ///< bits of spec::capability
  };
  virtual Result<std::optional<RegionInfo>> region_info(std::uint32_t asid, std::uint64_t start,
                                                        std::uint64_t last) = 0;
  /// Makes `memory` (page-aligned, of the size of the bounce region) the bounce buffer at `iova`. EINVAL: there is no such
  /// region; EEXIST: a buffer is registered already; ENOMEM: the limit of locked memory.
  virtual Status register_memory(std::uint32_t asid, std::uint64_t iova, MutableBytes memory) = 0;
  /// ENOENT: none is registered; EINVAL: another one is.
  virtual Status unregister_memory(std::uint32_t asid, std::uint64_t iova, MutableBytes memory) = 0;
};

/// The folder of the kernel's nodes; a test has its own.
inline constexpr const char* device_folder = "/dev/vduse";

/// EINVAL: a name that VDUSE cannot have or should not: [A-Za-z0-9_.-]{1,64}, not `control`, `.` or `..`.
Status check_name(std::string_view name);

/// Opens the node of a device that exists. EBUSY: another process has it open; the error names it if it is visible. ENOENT,
/// ENODEV: there is no such device or node. EACCES. EPERM: the kernel has given the device up. `api_version`: the version that
/// the device was created with, if it is known.
Result<std::unique_ptr<Node>> open_node(const std::string& name, std::optional<std::uint64_t> api_version = {},
                                        const std::string& folder = device_folder);
/// The same for a descriptor that another process has opened and passed. ENODEV: not the node of a device.
Result<std::unique_ptr<Node>> adopt_node(UniqueFd fd, std::optional<std::uint64_t> api_version = {});
/// The same on a NodeFile, which may be a fake. `name` is the subject of errors.
Result<std::unique_ptr<Node>> node_on(std::unique_ptr<NodeFile> file, std::string name,
                                      std::optional<std::uint64_t> api_version = {});

/// Waits for the node of a device that has just been created. `pause` waits for a moment, and returns false to stop waiting.
/// ENOENT: the node did not appear.
Status wait_for_node(const std::string& name, const std::function<bool()>& pause,
                     const std::string& folder = device_folder);

}  // namespace outboard::vduse
