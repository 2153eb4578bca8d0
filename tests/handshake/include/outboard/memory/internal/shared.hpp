#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#include <outboard/base/bytes.hpp>
#include <outboard/base/endian.hpp>

/// Stands in for <outboard/memory/internal/shared.hpp> when the rings are compiled for tests/handshake: the same words, but each
/// access to shared memory and each full fence is an event of a simulated machine, while there is one. The names are in a
/// namespace of their own, so that this is never linked with the true ones.
namespace outboard::memory {
inline namespace simulated {

/// The machine. Values are as they are stored: little-endian.
class SharedMemory {
 public:
  virtual ~SharedMemory() = default;
  virtual std::uint64_t load(const void* at, std::size_t size, std::memory_order order) = 0;
  virtual void store(void* at, std::size_t size, std::uint64_t value, std::memory_order order) = 0;
  /// `function`: the one that has the fence, as its compiler writes it.
  virtual void full_fence(const char* function) = 0;
};

/// Null: memory is memory.
inline SharedMemory* shared_memory = nullptr;

inline void full_fence(std::source_location here = std::source_location::current()) {
  if (shared_memory != nullptr) shared_memory->full_fence(here.function_name());
}

template <typename T>
T load_shared(const void* at, std::memory_order order) {
  T value;
  if (shared_memory != nullptr) return static_cast<T>(shared_memory->load(at, sizeof(T), order));
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <typename T>
void store_shared(void* at, T value, std::memory_order order) {
  if (shared_memory != nullptr) return shared_memory->store(at, sizeof(T), value, order);
  std::memcpy(at, &value, sizeof value);
}

template <typename Field>
class Shared {
 public:
  using Stored = typename Field::value_type;

  Shared() = default;
  explicit Shared(std::byte* at) : at_(at) {}

  typename Field::value_type load(std::memory_order order) const {
    return Field::from_stored(load_shared<Stored>(at_, order));
  }
  void store(typename Field::value_type value, std::memory_order order) const {
    store_shared<Stored>(at_, Field(value).stored(), order);
  }

 private:
  std::byte* at_ = nullptr;
};

template <typename T>
  requires(sizeof(T) == 16 && std::is_trivially_copyable_v<T>)
T load16(const std::byte* at) {
  const std::uint64_t halves[2] = {load_shared<std::uint64_t>(at, std::memory_order_relaxed),
                                   load_shared<std::uint64_t>(at + 8, std::memory_order_relaxed)};
  T value;
  std::memcpy(&value, halves, sizeof value);
  return value;
}

template <typename T>
  requires(sizeof(T) == 16 && std::is_trivially_copyable_v<T>)
void store16(std::byte* at, const T& value) {
  std::uint64_t halves[2];
  std::memcpy(halves, &value, sizeof value);
  store_shared<std::uint64_t>(at, halves[0], std::memory_order_relaxed);
  store_shared<std::uint64_t>(at + 8, halves[1], std::memory_order_relaxed);
}

}  // namespace simulated
}  // namespace outboard::memory
