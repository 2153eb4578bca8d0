#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <outboard/base/result.hpp>

namespace outboard::testing {

/// A system call that a kernel of the last years may lack, or that a container's seccomp profile may deny.
struct RecentCall {
  std::string_view name;
  long number;
};

/// Those that Outboard, or a library under it, makes or may come to make.
std::span<const RecentCall> recent_calls();
std::optional<long> recent_call(std::string_view name);

/// From here on the kernel refuses these calls (numbers, at most 200) with `error` (ENOSYS: as an older kernel does; EPERM:
/// as a container does) to the calling thread, to the threads it makes, and to what they execute. For good.
/// EINVAL: too many; what the kernel says where it has no seccomp filters.
Status deny_calls(std::span<const long> calls, int error);

/// The same for one call, where its argument number `argument` (from 0 on) is `value`.
Status deny_call(long call, unsigned argument, std::uint32_t value, int error);

/// Runs `body` on a thread of its own with these calls denied, and waits for it. A failure to install the filter is one
/// of the running test.
void with_calls_denied(const std::vector<long>& calls, int error, const std::function<void()>& body);

}  // namespace outboard::testing
