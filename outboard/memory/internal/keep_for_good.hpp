#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace outboard::memory {

/// Keeps an object until the process ends: it has memory that a device may still write to, which must never be used for anything
/// else. Any thread.
template <typename T>
void keep_for_good(T object) {
  static std::mutex mutex;
  static auto& kept = *new std::vector<std::unique_ptr<T>>();  // not destroyed at exit either
  auto moved = std::make_unique<T>(std::move(object));
  const std::lock_guard lock(mutex);
  kept.push_back(std::move(moved));
}

}  // namespace outboard::memory
