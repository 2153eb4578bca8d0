#pragma once

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>

/// All-ones memory: what a register reads as when no device answers. It replaces a window onto a device that was removed, so
/// that reads through the window return what they would return on a bus.
namespace outboard::memory {

/// Replaces `window`, which is page-aligned and mapped, by private memory that reads as all-ones. An access of another thread
/// meanwhile reaches either the old memory or the new. Writes to the new memory stay in this process.
///
/// Removing the old memory has priority over all-ones: a part for which there is no all-ones memory reads as zeros. That
/// happens beyond 16 GiB, if the process has no mapping left, and if it has no descriptor left and `spare`, a file of ones, is
/// not given. False: some of the old memory is still mapped.
bool cover_with_ones(MutableBytes window, const UniqueFd* spare = nullptr);

/// A memory file of `size` bytes, all of them ones. Invalid when there is no memory for it.
UniqueFd file_of_ones(std::uint64_t size);

}  // namespace outboard::memory
