#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include <outboard/base/log.hpp>
#include <outboard/memory/address_map.hpp>
#include <outboard/vduse/node.hpp>

namespace outboard::vduse {

/// The memory that one group of queues works in: what the kernel's table says of the group's address space, mapped when
/// something there is touched first, with the permissions that the table gives.
///
/// Control loop, but for what the map's users ask on their own threads. The node outlives it.
class Iotlb {
 public:
  struct Options {
    /// Give the kernel memory of ours for its bounce buffer: no page of it faults.
    bool own_bounce = false;
    Log log{};
  };

  Iotlb(Loop& control, Options options);

  memory::AddressMap& map() { return map_; }

  /// From now on the kernel is asked; null: no longer, and everything is a hole. Who is asking it is waited for.
  void use(Node* node) {
    const std::lock_guard lock(mutex_);
    node_ = node;
  }

  std::uint32_t address_space() const { return asid_.load(std::memory_order_relaxed); }
  /// Another address space, with nothing of the old one left. `done`: as AddressMap::clear.
  void set_address_space(std::uint32_t asid, memory::AddressMap::Completion done);

  /// The kernel's table has changed. Forgets what is not there any more, or not as it was, and calls `done` when nothing
  /// touches that any longer.
  void refresh(memory::AddressMap::Completion done);
  /// Forgets everything: a reset.
  void clear(memory::AddressMap::Completion done);

 private:
  /// What tells one mapping of the kernel's table from another at the same place.
  struct Origin {
    std::uint64_t offset = 0;
    std::uint8_t perm = 0;
    dev_t device = 0;
    ino_t inode = 0;
    friend bool operator==(const Origin&, const Origin&) = default;
  };

  std::optional<memory::Mapping> resolve(memory::IovaRange wanted);
  Result<std::optional<memory::Mapping>> look_up(Node& node, std::uint64_t address);
  std::shared_ptr<memory::HostMemory> bounce_memory(Node& node, const Node::Region& region);
  bool unchanged(Node& node, const memory::Mapping& mapping);
  void complain(const Error& error);

  Options options_;
  std::atomic<std::uint32_t> asid_{0};
  std::mutex mutex_;  ///< of what follows
  Node* node_ = nullptr;  ///< changed on the control loop only
  std::map<std::uint64_t, Origin> origins_;  ///< by the first address
  std::shared_ptr<memory::HostMemory> bounce_;  ///< ours, registered with the kernel
  bool bounce_refused_ = false;
  int last_complaint_ = 0;  ///< errno: told once in a row
  memory::AddressMap map_;
};

}  // namespace outboard::vduse
