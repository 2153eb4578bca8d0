#pragma once

#include <cstdint>
#include <span>

#include <outboard/base/bytes.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/memory/iova.hpp>
#include <outboard/virtio/driver_queue.hpp>

/// What the two formats of a driver's ring share: their memory, and the types of their calls.
/// Part of DriverQueue.
namespace outboard::virtio {

/// Where the parts of a ring are, and how it is used.
struct DriverRingLayout {
  std::byte* descriptors = nullptr;
  std::byte* driver = nullptr;
  std::byte* device = nullptr;
  std::uint16_t size = 0;
  bool event_idx = false;
  bool in_order = false;

  /// Indirect tables, one for each ring slot; null when they are not used.
  std::byte* tables = nullptr;
  memory::Iova tables_iova{};
  std::uint16_t table_entries = 0;

  std::byte* table(std::uint16_t index) const { return tables + std::size_t{index} * table_bytes(); }
  memory::Iova table_iova(std::uint16_t index) const { return tables_iova + std::uint64_t{index} * table_bytes(); }
  std::size_t table_bytes() const { return std::size_t{table_entries} * 16; }
};

/// A buffer on its way into the ring, checked by DriverQueue: at least one element, and room for it.
struct DriverChain {
  std::span<const Element> readable, writable;
  std::uint64_t writable_bytes = 0;
  bool indirect = false;
  void* cookie = nullptr;

  std::size_t elements() const { return readable.size() + writable.size(); }

  /// Calls `each(element, device_writes, is_last)` in order.
  template <typename Each>
  void for_each(Each&& each) const {
    for (std::size_t i = 0; i < readable.size(); ++i)
      each(readable[i], false, i + 1 == readable.size() && writable.empty());
    for (std::size_t i = 0; i < writable.size(); ++i) each(writable[i], true, i + 1 == writable.size());
  }
};

enum class Taken : std::uint8_t {
  none,  ///< nothing is used
  one,
  bad,  ///< what the device wrote makes no sense
};

}  // namespace outboard::virtio
