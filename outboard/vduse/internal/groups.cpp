#include <outboard/vduse/internal/groups.hpp>

#include <algorithm>
#include <utility>

#include <outboard/base/internal/joined_completion.hpp>

namespace outboard::vduse {

Groups::Groups(Loop& control, std::vector<std::uint32_t> of_queue, const Iotlb::Options& options)
    : of_queue_(std::move(of_queue)) {
  std::uint32_t last = 0;
  for (const std::uint32_t group : of_queue_) last = std::max(last, group);
  for (std::uint32_t group = 0; group <= last; ++group) memory_.push_back(std::make_unique<Iotlb>(control, options));
}

void Groups::use(Node* node) {
  for (const auto& memory : memory_) memory->use(node);
}

std::vector<std::uint32_t> Groups::address_spaces() const {
  std::vector<std::uint32_t> spaces;
  for (const auto& memory : memory_) spaces.push_back(memory->address_space());
  return spaces;
}

void Groups::set_address_space(std::uint32_t group, std::uint32_t asid, Done done) {
  memory_[group]->set_address_space(asid, [done = std::move(done)](const Status&) mutable { done(); });
}

void Groups::refresh(std::uint32_t asid, Done done) {
  const auto all =
      JoinedCompletion::of(memory_.size() + 1, [done = std::move(done)](const Status&) mutable { done(); });
  for (const auto& memory : memory_) {
    if (memory->address_space() != asid) {
      all->part_done();
    } else {
      memory->refresh([all](const Status&) { all->part_done(); });
    }
  }
  all->part_done();
}

void Groups::forget(Done done) {
  const auto all = JoinedCompletion::of(memory_.size(), [done = std::move(done)](const Status&) mutable { done(); });
  for (const auto& memory : memory_) memory->clear([all](const Status&) { all->part_done(); });
}

}  // namespace outboard::vduse
