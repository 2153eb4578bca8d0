#include <outboard/virtio/internal/request_slot.hpp>

#include <algorithm>

namespace outboard::virtio {

void Chain::grow() {
  const bool was_inline = !is_long();
  if (!was_inline || spill_.empty()) spill_.resize(std::size_t{capacity_} * 4);
  if (was_inline) std::ranges::copy(inline_, spill_.begin());
  capacity_ = static_cast<std::uint32_t>(spill_.size());
  elements_ = spill_.data();
}

void Chain::release() {
  if (spill_.size() > keep) spill_ = {};
  capacity_ = inline_count;
  elements_ = inline_.data();
}

}  // namespace outboard::virtio
