#include <tests/support/scarce_memory.hpp>

#include <cstdint>
#include <cstdlib>

#include <gtest/gtest.h>

#include <outboard/base/internal/process_memory.hpp>

namespace outboard::testing {

AddressSpaceLimit::AddressSpaceLimit(std::uint64_t free) {
  const std::uint64_t used = address_space_in_use();
  EXPECT_GT(used, 0U);
  EXPECT_EQ(::getrlimit(RLIMIT_AS, &before_), 0);
  const rlimit low{.rlim_cur = used + free, .rlim_max = before_.rlim_max};
  is_set_ = before_.rlim_cur >= low.rlim_cur && ::setrlimit(RLIMIT_AS, &low) == 0;
}

AddressSpaceLimit::~AddressSpaceLimit() { EXPECT_EQ(::setrlimit(RLIMIT_AS, &before_), 0); }

bool NoMemoryFor::is_possible() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
  return false;
#else
  return true;
#endif
#else
  return true;
#endif
}

NoMemoryFor::NoMemoryFor(std::size_t size) {
  EXPECT_TRUE(none_.is_set());
  // What was freed before is still the allocator's.
  for (; count_ != taken_.size(); ++count_) {
    taken_[count_] = std::malloc(size);
    if (taken_[count_] == nullptr) return;
  }
  ADD_FAILURE() << "the limit on the address space limits nothing";
}

NoMemoryFor::~NoMemoryFor() {
  while (count_ != 0) std::free(taken_[--count_]);
}

}  // namespace outboard::testing
