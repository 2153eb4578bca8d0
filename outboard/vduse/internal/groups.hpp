#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <outboard/base/loop.hpp>
#include <outboard/vduse/internal/iotlb.hpp>

namespace outboard::vduse {

/// The groups of queues that a device has, and the memory of each: that of the address space which the driver has chosen for
/// the group. API version 0 has one group, in address space 0. Control loop.
class Groups {
 public:
  using Done = std::move_only_function<void()>;

  /// `of_queue`: the group of each queue; shorter: group 0 for the rest.
  Groups(Loop& control, std::vector<std::uint32_t> of_queue, const Iotlb::Options& options);

  std::uint32_t count() const { return static_cast<std::uint32_t>(memory_.size()); }
  std::uint32_t group_of(unsigned queue) const { return queue < of_queue_.size() ? of_queue_[queue] : 0; }
  memory::AddressMap& memory_of(unsigned queue) { return memory_[group_of(queue)]->map(); }

  /// The kernel is asked from now on; null: no longer.
  void use(Node* node);

  /// The address space of each group.
  std::vector<std::uint32_t> address_spaces() const;
  /// Gives a group another address space. `done` when nothing touches memory of the old one any more.
  void set_address_space(std::uint32_t group, std::uint32_t asid, Done done);
  /// The kernel's table of an address space has changed. `done` when nothing touches what has gone any more.
  void refresh(std::uint32_t asid, Done done);
  /// Drops every mapping: after a reset nothing of the driver's memory may be touched. `done` when nothing is any more.
  void forget(Done done);

 private:
  std::vector<std::uint32_t> of_queue_;
  std::vector<std::unique_ptr<Iotlb>> memory_;  ///< of each group
};

}  // namespace outboard::vduse
