#include <outboard/virtio/internal/indirect_table.hpp>

namespace outboard::virtio {

using memory::Access;
using memory::Lookup;

const RingRule* rule_of(Lookup lookup) {
  switch (lookup) {
    case Lookup::ok:
      return nullptr;
    case Lookup::denied:
      return &ring_rule::denied;
    case Lookup::remote:
      return &ring_rule::table_remote;
    case Lookup::hole:
      break;
  }
  return &ring_rule::unmapped;
}

const RingRule* IndirectTable::open_elsewhere() {
  if (!range_.well_formed()) return &ring_rule::address_wraps;
  const RingRule* rule = rule_of(memory_->look_again(range_, Access::read));
  if (rule == nullptr) host_ = memory_->host(range_.start, static_cast<std::uint32_t>(range_.size), Access::read);
  return rule;
}

const RingRule* IndirectTable::read_pieces(std::uint32_t index, MutableBytes entry) {
  const memory::IovaRange range{range_.start + std::uint64_t{index} * entry_size, entry_size};
  const Lookup lookup = memory_->translate(range, Access::read, [&](const memory::Segment& segment) {
    std::memcpy(entry.data(), segment.data, segment.size);
    entry = entry.subspan(segment.size);
  });
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return rule_of(lookup);
}

}  // namespace outboard::virtio
