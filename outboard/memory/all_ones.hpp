#pragma once

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>

/// What a register reads as when nobody answers. A window onto a device that is taken away gets memory of all-ones in its
/// place, so that who looks through it finds what it would find on a bus.
namespace outboard::memory {

/// Puts private memory that reads as all-ones over `window`, which is page-aligned and mapped: each access of another thread
/// finds either what was there or this. What is written to it stays in this process.
///
/// That what was there goes comes before ones: what they cannot be had for reads as zeros. That is beyond 16 GiB, or when
/// the process has no mapping left; and when it has no descriptor left, unless `spare`, a file of ones, serves. False when
/// some of what was there is there still.
bool cover_with_ones(MutableBytes window, const UniqueFd* spare = nullptr);

/// A memory file of `size` bytes, all of them ones. Invalid when there is no memory for it.
UniqueFd file_of_ones(std::uint64_t size);

}  // namespace outboard::memory
