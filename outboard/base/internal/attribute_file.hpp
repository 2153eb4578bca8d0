#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

/// Attributes of sysfs: files on which one write(2) is one command. Any thread.
namespace outboard {

/// Writes `value` to an attribute whose write does not wait for a driver.
Status write_attribute(const std::string& path, std::string_view value);

/// The same in a child process that has none of this process's descriptors: for an attribute whose write blocks until a driver
/// has finished (probe, remove). A process that is killed meanwhile cannot end before the write does, and would keep its locks.
/// Waits for the end of the write, at most `timeout`; signals that ask this process to end do not reach the child. EIO: the
/// kernel has refused, and gives no reason. ETIMEDOUT: the write still waits in the process that the error names; only the
/// kernel can end it.
Status write_attribute_apart(const std::string& path, const std::string& value, std::optional<Duration> timeout = {});

}  // namespace outboard
