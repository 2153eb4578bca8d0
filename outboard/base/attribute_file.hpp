#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

/// Attributes of sysfs: files of which one write(2) does all that the attribute does. Any thread.
namespace outboard {

/// Writes `value` to an attribute. For one that does not wait for a driver.
Status write_attribute(const std::string& path, std::string_view value);

/// The same, by a process of its own that holds nothing of this one's: where the kernel does not come back from the write
/// before a driver has done something (probe, remove), whoever is killed meanwhile must not keep what the next process
/// needs. Waits for the end, or for at most `bound`; a signal that asks this process to end is not for that one. EIO: the
/// kernel has refused, and does not say why. ETIMEDOUT: the write goes on in the process that the error names; nothing can
/// end it but the kernel.
Status write_attribute_apart(const std::string& path, const std::string& value, std::optional<Duration> bound = {});

}  // namespace outboard
