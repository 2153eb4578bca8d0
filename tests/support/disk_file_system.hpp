#pragma once

#include <string>
#include <string_view>

#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>

namespace outboard::testing {

/// A new file system on a block device. Mounted nowhere, so it goes with the object, however the test ends.
class DiskFileSystem {
 public:
  /// Makes one with `mkfs.KIND` (ext4 or xfs) and mounts it. ENOENT: that program is not installed. ENODEV: this kernel has no such
  /// file system. EPERM: this process may not mount. All that was on the device is lost.
  static Result<DiskFileSystem> create(std::string_view kind, std::string device);

  std::string path(std::string_view name) const;
  /// Mounts it again, with nothing of it left in memory. Nobody may have a file of it open.
  Status forget();

 private:
  DiskFileSystem(std::string_view kind, std::string device) : kind_(kind), device_(std::move(device)) {}
  Status mount();

  std::string kind_;
  std::string device_;
  UniqueFd mount_;
};

}  // namespace outboard::testing
