#pragma once

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>

/// What a register reads as when nobody answers. A window onto a device that is taken away gets memory of all-ones in its
/// place, so that who looks through it finds what it would find on a bus.
namespace outboard::memory {

/// Puts private memory that reads as all-ones over `window`, which is page-aligned and mapped: each access of another thread
/// finds either what was there or this. What is written to it stays in this process. False when there is no memory for it:
/// then what was there is still there.
bool cover_with_ones(MutableBytes window);

/// A memory file of `size` bytes, all of them ones. Invalid when there is no memory for it.
UniqueFd file_of_ones(std::uint64_t size);

}  // namespace outboard::memory
