#pragma once

#include <cstddef>

/// Of a structure of ours and one of the kernel's.
#define SAME_SIZE(ours, theirs) static_assert(sizeof(ours) == sizeof(theirs))
#define SAME_PLACE(ours, theirs, member) SAME_PLACE_AS(ours, member, theirs, member)
#define SAME_PLACE_AS(ours, our_member, theirs, member)                   \
  static_assert(offsetof(ours, our_member) == offsetof(theirs, member) && \
                sizeof(ours::our_member) == sizeof(theirs::member))
