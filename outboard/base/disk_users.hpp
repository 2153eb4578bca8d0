#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace outboard {

/// Where the block device `disk` ("vda"), or a partition of it, is used: mount points (of any mount namespace that can be
/// seen), "swap", holders ("dm-0"), sorted. Who a disk would be taken away from. `sysfs` and `proc` stand for /sys and
/// /proc. Any thread.
std::vector<std::string> users_of_disk(std::string_view disk, const std::string& sysfs = "/sys",
                                       const std::string& proc = "/proc");

}  // namespace outboard
