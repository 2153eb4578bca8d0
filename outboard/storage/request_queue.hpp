#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

namespace outboard::storage {

/// The request queue of a block device, as the kernel describes it in sysfs. A partition has that of its disk.
class RequestQueue {
 public:
  /// Of a device that is unknown there nothing is known. `sys` is where sysfs is.
  static RequestQueue of(dev_t device, std::string sys = "/sys");
  /// Whether the device stands on others: what is begun there waits for room in their queues.
  bool is_on_others() const;

  /// The disk whose queue it is.
  dev_t disk() const { return disk_; }
  /// How many requests the queue has room for; nullopt: unknown, or the device has none of its own.
  std::optional<std::uint64_t> depth() const { return limit("nr_requests"); }
  /// The disk's file of this name in sysfs.
  std::string path(std::string_view name) const;
  /// A value of the queue by the name of its file.
  std::optional<std::uint64_t> limit(std::string_view name) const;

 private:
  RequestQueue(dev_t disk, std::string sys) : disk_(disk), sys_(std::move(sys)) {}

  dev_t disk_;
  std::string sys_;
};

}  // namespace outboard::storage
