#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/result.hpp>
#include <outboard/vduse/node.hpp>
#include <outboard/vduse/spec.hpp>

namespace outboard::vduse {

/// What a VDUSE device is created with.
struct DeviceShape {
  std::string name;
  std::uint32_t device_id = 0;  ///< virtio device ID
  std::uint32_t vendor_id = 0;
  std::uint64_t features = 0;  ///< what is offered; has ACCESS_PLATFORM
  std::vector<std::uint16_t> queue_sizes{};  ///< one maximum for each queue
  std::uint32_t groups = 0;  ///< API 1, else 0
  std::uint32_t address_spaces = 0;  ///< API 1, else 0
  std::vector<std::byte> config{};  ///< the device configuration space as it is now
};

/// The feature bits that the kernel refuses to create a device of this type with, or that cannot work on VDUSE.
std::uint64_t refused_features(std::uint32_t device_id);

/// What the kernel would refuse without a word, or take and never let a driver use. EINVAL; ENOTSUP: a device ID that the
/// kernel does not take. The error names the reason.
Status check_shape(const DeviceShape& shape, std::uint64_t api_version);

/// /dev/vduse/control: makes devices, and removes them. One thread at a time.
class Control {
 public:
  /// `api_version`: of the devices that are created through this object; it is set explicitly, always. Where the kernel can
  /// send SET_VQ_READY and SUSPEND (7.3), their devices get them.
  /// ENOENT: the module vduse is not loaded; EACCES; EINVAL: the kernel does not have that version.
  static Result<Control> open(std::uint64_t api_version, const std::string& folder = device_folder);

  /// The same on system calls that may be a test's. `folder` is what errors are about, and where nodes are.
  static Result<Control> on(std::unique_ptr<NodeFile> file, std::uint64_t api_version,
                            const std::string& folder = device_folder);

  /// The highest version that the kernel has. Same errors. (Asked on a descriptor of its own: asking selects.)
  static Result<std::uint64_t> highest_api_version(const std::string& folder = device_folder);

  std::uint64_t api_version() const { return api_version_; }
  /// Creates a device. What the kernel would refuse without a word is looked at first (check_shape), so that an error names
  /// the reason. EEXIST: there is a device of this name; EPERM: a network device, and no CAP_NET_ADMIN; ENOMEM, ENOSPC; and
  /// those of check_shape. The node may come a moment later: wait_for_node().
  Status create(const DeviceShape& shape);
  /// Removes a device. ENOENT: there is none; EBUSY: attached to the bus, or somebody has its node open.
  Status destroy(std::string_view name);
  /// The same, but retries as long as `wait` returns true: a process that has the device open may be about to end. Succeeds if
  /// there is no device. Other errors as above.
  Status destroy_with_retry(std::string_view name, const std::function<bool()>& wait);

 private:
  Control(std::unique_ptr<NodeFile> file, std::uint64_t api_version, std::string folder)
      : file_(std::move(file)), api_version_(api_version), folder_(std::move(folder)) {}
  Error refusal(int code, const DeviceShape& shape) const;

  std::unique_ptr<NodeFile> file_;
  std::uint64_t api_version_;
  std::string folder_;
};

}  // namespace outboard::vduse
