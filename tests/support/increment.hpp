#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include <outboard/base/endian.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/virtio/device.hpp>
#include <outboard/virtio/driver_queue.hpp>

namespace outboard::testing {

/// The README's device: answers each request with its number plus one.
class Increment final : public virtio::Device {
 public:
  explicit Increment(unsigned queues = 1, std::uint16_t size = 64) : queues_(queues), size_(size) {}

  virtio::Identity identity() const override {
    return {.device_id = 63, .queue_sizes = std::vector<std::uint16_t>(queues_, size_)};
  }
  void handle(virtio::Request request) override {
    const auto number = request.read<le32>();
    if (!number) return request.violation(number.error());
    if (const auto room = request.write(le32{*number + 1}); !room) return request.violation(room.error());
    request.complete();
  }

 private:
  unsigned queues_;
  std::uint16_t size_;
};

/// The driver's side of it, over one queue: numbers in and out of DMA memory.
class IncrementCaller {
 public:
  IncrementCaller(virtio::DriverQueue& queue, memory::DmaSpace& dma)
      : queue_(queue), buffer_(dma.allocate(std::uint64_t{8} * slots).value()) {}

  static constexpr std::uint64_t slots = 32;

  /// Adds a request in a slot (< slots) that is free.
  Status add(std::uint32_t slot, std::uint32_t number) {
    const le32 stored = number, cleared = 0;
    std::memcpy(at(slot), &stored, 4);
    std::memcpy(at(slot) + 4, &cleared, 4);
    const virtio::Element in[] = {{buffer_.iova() + std::uint64_t{8} * slot, 4}},
                          out[] = {{buffer_.iova() + std::uint64_t{8} * slot + 4, 4}};
    return queue_.add(in, out, at(slot));
  }
  std::uint32_t answer(std::uint32_t slot) const {
    le32 stored;
    std::memcpy(&stored, at(slot) + 4, 4);
    return stored;
  }
  /// The slot of a used buffer.
  std::uint32_t slot_of(const virtio::DriverQueue::Used& used) const {
    return static_cast<std::uint32_t>((static_cast<std::byte*>(used.cookie) - buffer_.data()) / 8);
  }

 private:
  std::byte* at(std::uint32_t slot) const { return buffer_.data() + std::uint64_t{8} * slot; }

  virtio::DriverQueue& queue_;
  memory::DmaBuffer buffer_;
};

}  // namespace outboard::testing
