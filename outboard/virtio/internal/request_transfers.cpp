#include <outboard/virtio/internal/request_transfers.hpp>

#include <algorithm>
#include <utility>

#include <outboard/base/internal/try_resize.hpp>
#include <outboard/memory/transfer.hpp>

namespace outboard::virtio {

using memory::Access;

void RequestTransfers::fetch(RequestSlot& slot, const std::shared_ptr<TransferOwner>& owner) {
  Bounce& bounce = *slot.bounce;
  ++running_;
  if (const auto room = try_resize(bounce.bytes, slot.bytes()); !room)
    return end(slot, Access::read, &ring_rule::no_copy, *owner);
  bytes_ += bounce.bytes.size();
  slot.state = RequestSlot::State::transferring;
  bounce.element = 0;
  bounce.at = 0;
  next(slot, Access::read, owner);
}

void RequestTransfers::write_back(RequestSlot& slot, const std::shared_ptr<TransferOwner>& owner) {
  slot.state = RequestSlot::State::transferring;
  slot.bounce->element = slot.chain.readable_count();
  slot.bounce->at = slot.readable_bytes;
  ++running_;
  next(slot, Access::write, owner);
}

/// Starts the transfer of the next element, or ends the whole of it.
void RequestTransfers::next(RequestSlot& slot, Access access, const std::shared_ptr<TransferOwner>& owner) {
  Bounce& bounce = *slot.bounce;
  const bool fetching = access == Access::read;
  const std::uint64_t end_of_part = fetching ? slot.readable_bytes : slot.readable_bytes + slot.write.done;
  if (bounce.at == end_of_part) return end(slot, access, nullptr, *owner);
  while (slot.chain[bounce.element].length == 0) ++bounce.element;
  const ChainElement& element = slot.chain[bounce.element++];
  const std::uint64_t size = std::min<std::uint64_t>(element.length, end_of_part - bounce.at);
  const MutableBytes bytes = MutableBytes(bounce.bytes).subspan(bounce.at, size);
  bounce.at += size;

  // `owner` keeps the queue, and so this.
  auto start = [this, owner, &slot, access, bytes, range = memory::IovaRange{element.address, size},
                snapshot = map_.current()]() mutable {
    auto done = [this, owner, &slot, access](const Status& status) {
      const auto go_on = [this, owner, &slot, access, has_failed = !status] {
        if (owner->is_abandoned()) return;
        if (has_failed) return end(slot, access, &ring_rule::transfer_failed, *owner);
        next(slot, access, owner);
      };
      if (owner->is_abandoned()) return;
      if (&loop_ == &control_) return go_on();
      loop_.post(go_on);
    };
    if (access == Access::read) {
      memory::read_memory(std::move(snapshot), range, bytes, std::move(done));
    } else {
      memory::write_memory(std::move(snapshot), range, bytes, std::move(done));
    }
  };
  if (&loop_ == &control_) return start();
  control_.post(std::move(start));
}

void RequestTransfers::end(RequestSlot& slot, Access access, const RingRule* failure, TransferOwner& owner) {
  --running_;
  owner.transferred(slot, access, failure);
}

void RequestTransfers::release(RequestSlot& slot) {
  if (!slot.bounce) return;
  bytes_ -= slot.bounce->bytes.size();
  slot.bounce.reset();
}

}  // namespace outboard::virtio
