#include <outboard/virtio/internal/memory_view.hpp>

#include <algorithm>
#include <utility>

namespace outboard::virtio {

using memory::Access;
using memory::Iova;
using memory::IovaRange;
using memory::Lookup;

MemoryView::MemoryView(const memory::AddressMap& map)
    : map_(&map), writes_(nullptr), epoch_(std::make_unique<Epoch>()) {
  epoch_->snapshot = map.current();
  writes_ = &epoch_->snapshot->writes();
  generation_ = epoch_->snapshot->generation();
}

void MemoryView::refresh() {
  auto snapshot = map_->current();
  if (snapshot == epoch_->snapshot) return;
  if (epoch_->pins != 0) older_.push_back(std::exchange(epoch_, std::make_unique<Epoch>()));
  epoch_->snapshot = std::move(snapshot);
  generation_ = epoch_->snapshot->generation();
  recent_ = {};
  hint_ = 0;
}

std::byte* MemoryView::host_elsewhere(Iova at, std::uint32_t length, Access access) {
  std::swap(recent_[0], recent_[1]);
  std::uint64_t offset = raw(at) - recent_[0].start;
  if (offset >= recent_[0].size) {
    const memory::Mapping* mapping = snapshot().find(at);
    if (mapping == nullptr || !mapping->memory) {
      std::swap(recent_[0], recent_[1]);
      return nullptr;
    }
    recent_[0] = {.start = raw(mapping->range.start),
                  .size = mapping->range.size,
                  .host = mapping->host(mapping->range.start),
                  .memory = mapping->memory.get(),
                  .access = mapping->access};
    offset = raw(at) - recent_[0].start;
  }
  if (length > recent_[0].size - offset || !allows(recent_[0].access, access)) return nullptr;
  return recent_[0].host + offset;
}

bool MemoryView::poisoned(const memory::Snapshot& snapshot, IovaRange range) {
  while (range.size != 0) {
    const memory::Mapping* mapping = snapshot.find(range.start);
    if (mapping == nullptr) return false;
    const std::uint64_t rest = raw(mapping->range.last()) - raw(range.start);
    const std::uint64_t here = std::min(range.size - 1, rest) + 1;
    if (mapping->memory && mapping->memory->poisoned(mapping->host(range.start), here)) return true;
    range = {range.start + here, range.size - here};
  }
  return false;
}

Lookup MemoryView::look_again(IovaRange range, Access access) {
  if (stale()) refresh();
  const Lookup found = snapshot().check(range, access);
  if (found != Lookup::hole || !map_->resolve(range, access)) return found;
  refresh();
  return snapshot().check(range, access);
}

void MemoryView::retire(const Epoch* epoch) {
  std::erase_if(older_, [&](const std::unique_ptr<Epoch>& older) { return older.get() == epoch; });
}

}  // namespace outboard::virtio
