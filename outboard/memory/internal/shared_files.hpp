#pragma once

#include <sys/types.h>

#include <map>
#include <memory>

#include <outboard/base/internal/budget.hpp>
#include <outboard/memory/host_memory.hpp>

namespace outboard::memory {

/// Maps each memory file of a client once, as a whole; the windows on a file are parts of that mapping. Otherwise each window
/// would take one of the 65530 mappings of a process. One thread; the memory that it returns may be used on any thread.
class SharedFiles {
 public:
  /// `share`: the share that mappings are taken from; null: there is no limit.
  explicit SharedFiles(std::shared_ptr<Budget::Share> share) : share_(std::move(share)) {}

  struct Window {
    std::shared_ptr<HostMemory> memory;
    std::uint64_t offset = 0;  ///< of the window inside `memory`
  };
  /// [offset, offset + size) of `fd`, as HostMemory::map_file() maps it and with its errors. The descriptor may be closed
  /// afterwards. A file that is too large to be mapped whole, or has grown, gets another mapping. ENOSPC: the share is used up.
  Result<Window> map(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size, Access access);

 private:
  struct Key {
    dev_t device;
    ino_t inode;
    auto operator<=>(const Key&) const = default;
  };
  struct Entry {
    std::uint64_t offset;  ///< in the file, where `memory` starts
    std::uint64_t size;
    Access access;
    std::weak_ptr<HostMemory> memory;
  };
  std::shared_ptr<HostMemory> find(const Key& key, std::uint64_t offset, std::uint64_t size, Access access,
                                   std::uint64_t& start);
  Result<std::shared_ptr<HostMemory>> map_new(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size,
                                              Access access) const;
  void forget_unused();

  std::shared_ptr<Budget::Share> share_;
  std::multimap<Key, Entry> entries_;
  std::size_t cleaned_at_ = 0;  ///< the number of entries that were in use at the last cleanup
};

}  // namespace outboard::memory
