#pragma once

#include <string_view>

namespace outboard::virtio {

/// A rule of the rings that a driver can break: the clause (as in docs/spec-map.md), and what it did, in words.
struct RingRule {
  std::string_view clause;
  std::string_view what;
};

// inline: a rule is known by its address, which has to be the same in every file.
namespace ring_rule {

inline constexpr RingRule avail_overrun{"2.7.13", "more buffers are available than the queue has room for"};
inline constexpr RingRule head_out_of_range{"2.7.5", "the head of a chain is beyond the queue's size"};
inline constexpr RingRule head_in_flight{"3.3.1", "a buffer was made available again before it was used"};
inline constexpr RingRule next_out_of_range{"2.7.5.2", "a descriptor chain goes on beyond its table"};
/// Also an indirect table longer than the limit; which limit: see IndirectTable.
inline constexpr RingRule chain_too_long{"2.7.5.3.1", "a descriptor chain is longer than the device takes, or a loop"};
inline constexpr RingRule buffer_too_large{"2.7.5.2", "a buffer has more than 2^32 bytes"};
inline constexpr RingRule buffer_empty{"2.7.13.1", "a buffer has no element"};
inline constexpr RingRule address_wraps{"2.7.5", "a descriptor's address and length go beyond 2^64"};
inline constexpr RingRule readable_after_writable{"2.7.4.2",
                                                  "a device-readable element comes after a device-writable one"};
inline constexpr RingRule indirect_not_negotiated{"2.7.5.3.1", "an indirect descriptor without VIRTIO_F_INDIRECT_DESC"};
inline constexpr RingRule indirect_in_table{"2.7.5.3.1", "an indirect descriptor within an indirect table"};
inline constexpr RingRule indirect_and_next{"2.7.5.3.1", "an indirect descriptor with a next one"};
inline constexpr RingRule indirect_in_list{"2.8.19", "an indirect descriptor in a list of descriptors"};
inline constexpr RingRule table_size{"2.7.5.3", "the length of an indirect table is 0 or no multiple of 16"};
inline constexpr RingRule chain_not_available{"2.8.17", "a list of descriptors is not available to its end"};
inline constexpr RingRule slots_overrun{"2.8.17", "more descriptors are available than the queue has room for"};
inline constexpr RingRule unmapped{"2.7.5", "an address is in no memory that was given to the device"};
inline constexpr RingRule denied{"2.7.5", "an address is in memory that does not allow the access"};
inline constexpr RingRule table_remote{"outboard", "an indirect table is in memory that is not mapped"};
inline constexpr RingRule bounce_too_large{"outboard",
                                           "a buffer in memory that is not mapped is larger than the device copies"};
inline constexpr RingRule transfer_failed{"outboard", "memory that is not mapped could not be read or written"};
inline constexpr RingRule no_copy{"outboard", "there is no memory for a copy of a buffer in memory that is not mapped"};
inline constexpr RingRule poisoned{"outboard", "the file behind the driver's memory has shrunk"};
inline constexpr RingRule dropped{"outboard", "the device lost a request without answering it"};
inline constexpr RingRule ring_unmapped{"4.1.4.3", "a queue was enabled whose ring is in no mapped memory"};

}  // namespace ring_rule
}  // namespace outboard::virtio
