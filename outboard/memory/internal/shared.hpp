#pragma once

#include <atomic>
#include <cstring>
#include <type_traits>

#include <outboard/base/bytes.hpp>
#include <outboard/base/endian.hpp>

#if defined(__SANITIZE_THREAD__)
#define OUTBOARD_UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define OUTBOARD_UNDER_TSAN 1
#endif
#endif

/// Access to memory that another, perhaps hostile, party writes at the same time. A value is loaded as a whole into a local
/// variable, or stored from one. There is no reference to it, so nothing can be read twice by accident.
namespace outboard::memory {

#if defined(OUTBOARD_TRACE_STORES)
/// Called before each store and at each full fence, for tests that kill a device between any two of its stores, or let the other
/// side run there. They exist only in programs that are compiled with OUTBOARD_TRACE_STORES as a whole.
inline void (*store_tracer)(const void* at) = nullptr;
inline void (*fence_tracer)() = nullptr;
inline void trace_store(const void* at) {
  if (store_tracer != nullptr) store_tracer(at);
}
inline void trace_fence() {
  if (fence_tracer != nullptr) fence_tracer();
}
#else
inline void trace_store(const void*) {}
inline void trace_fence() {}
#endif

/// The one full fence of the library (docs/memory-ordering.md). Orders earlier stores before later loads (StoreLoad).
inline void full_fence() {
  trace_fence();
#if defined(OUTBOARD_UNDER_TSAN)
  // TSan does not model fences; a sequentially consistent read-modify-write orders the same accesses for it.
  static std::atomic<unsigned> dummy{0};
  dummy.fetch_add(0, std::memory_order_seq_cst);
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

/// A 16-, 32- or 64-bit field of shared memory, naturally aligned (the caller has checked). Loads and stores are single
/// accesses of the field's width.
template <typename Field>
class Shared {
 public:
  using Stored = typename Field::value_type;

  Shared() = default;
  explicit Shared(std::byte* at) : at_(reinterpret_cast<Stored*>(at)) {}

  typename Field::value_type load(std::memory_order order) const {
    return Field::from_stored(std::atomic_ref<Stored>(*at_).load(order));
  }
  void store(typename Field::value_type value, std::memory_order order) const {
    trace_store(at_);
    std::atomic_ref<Stored>(*at_).store(Field(value).stored(), order);
  }

 private:
  Stored* at_ = nullptr;
};

/// Copies a 16-byte aligned-to-8 structure out of shared memory with two 8-byte loads. The result may be torn between
/// the halves (a driver may write at any time), which is why the copy, and only the copy, is validated.
template <typename T>
  requires(sizeof(T) == 16 && std::is_trivially_copyable_v<T>)
T load16(const std::byte* at) {
  auto* words = reinterpret_cast<std::uint64_t*>(const_cast<std::byte*>(at));
  const std::uint64_t halves[2] = {std::atomic_ref<std::uint64_t>(words[0]).load(std::memory_order_relaxed),
                                   std::atomic_ref<std::uint64_t>(words[1]).load(std::memory_order_relaxed)};
  T value;
  std::memcpy(&value, halves, sizeof value);
  return value;
}

template <typename T>
  requires(sizeof(T) == 16 && std::is_trivially_copyable_v<T>)
void store16(std::byte* at, const T& value) {
  std::uint64_t halves[2];
  std::memcpy(halves, &value, sizeof value);
  auto* words = reinterpret_cast<std::uint64_t*>(at);
  std::atomic_ref<std::uint64_t>(words[0]).store(halves[0], std::memory_order_relaxed);
  std::atomic_ref<std::uint64_t>(words[1]).store(halves[1], std::memory_order_relaxed);
}

}  // namespace outboard::memory
