#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

namespace outboard::storage {

/// A limit of a block device's request queue, by the name of its file in sysfs (`nr_requests`). A partition has the queue of
/// its disk. nullopt: sysfs (at `sys`) does not have the device or the limit.
std::optional<std::uint64_t> request_queue_limit(dev_t device, std::string_view name, const std::string& sys = "/sys");

}  // namespace outboard::storage
