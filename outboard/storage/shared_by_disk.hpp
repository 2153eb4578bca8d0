#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include <sys/types.h>

namespace outboard::storage {

/// What all of this process share of a disk: one T for each, made by `make` where nobody has it. Any thread.
template <typename T>
std::shared_ptr<T> shared_by_disk(dev_t disk, const std::function<std::shared_ptr<T>()>& make) {
  static std::mutex mutex;
  static std::map<dev_t, std::weak_ptr<T>> disks;  // guarded by mutex
  const std::lock_guard lock(mutex);
  std::erase_if(disks, [](const auto& each) { return each.second.expired(); });
  auto shared = disks[disk].lock();
  if (!shared) disks[disk] = shared = make();
  return shared;
}

}  // namespace outboard::storage
