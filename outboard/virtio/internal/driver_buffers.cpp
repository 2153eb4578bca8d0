#include <outboard/virtio/internal/driver_buffers.hpp>

#include <algorithm>
#include <utility>

namespace outboard::virtio {

DriverBuffers::DriverBuffers(std::uint16_t size, bool in_order)
    : buffers_(std::make_unique<Buffer[]>(size)),
      order_(in_order ? std::make_unique<std::uint16_t[]>(size) : nullptr),
      size_(size) {}

std::vector<void*> DriverBuffers::take_all() {
  std::vector<std::pair<std::uint64_t, void*>> found;
  for (std::uint16_t id = 0; id < size_; ++id) {
    Buffer& buffer = buffers_[id];
    if (buffer.in_use) found.emplace_back(buffer.sequence, buffer.cookie);
    buffer.in_use = false;
  }
  std::ranges::sort(found);
  in_flight_ = available_ = 0;
  oldest_ = newest_ = 0;
  used_ = false;
  std::vector<void*> cookies;
  for (const auto& [sequence, cookie] : found) cookies.push_back(cookie);
  return cookies;
}

}  // namespace outboard::virtio
