#include <outboard/storage/internal/range_lock.hpp>

#include <algorithm>
#include <utility>

namespace outboard::storage {

bool RangeLock::acquire(Ticket& ticket) {
  const std::lock_guard lock(mutex_);
  const auto overlapping = [&ticket](const std::list<Ticket*>& held) {
    return static_cast<unsigned>(
        std::ranges::count_if(held, [&](const Ticket* each) { return each->overlaps(ticket); }));
  };
  ticket.number = next_number_++;
  ticket.earlier = overlapping(exclusive_);
  if (ticket.lock_mode == Mode::exclusive) ticket.earlier += overlapping(shared_);
  auto& same = list(ticket.lock_mode);
  ticket.place = same.insert(same.end(), &ticket);
  return ticket.earlier == 0;
}

void RangeLock::release(Ticket& ticket) {
  const std::lock_guard lock(mutex_);
  std::erase(ticket.owner->granted_, &ticket);
  list(ticket.lock_mode).erase(ticket.place);
  let_go_on(exclusive_, ticket);
  if (ticket.lock_mode == Mode::exclusive) let_go_on(shared_, ticket);
}

void RangeLock::let_go_on(std::list<Ticket*>& waiting, const Ticket& released) {
  for (Ticket* ticket : waiting) {
    if (ticket->number < released.number || !ticket->overlaps(released) || --ticket->earlier != 0) continue;
    Owner& owner = *ticket->owner;
    owner.granted_.push_back(ticket);
    if (!owner.has_granted_.exchange(true, std::memory_order_relaxed)) owner.wake();
  }
}

std::vector<RangeLock::Ticket*> RangeLock::take_granted(Owner& owner) {
  const std::lock_guard lock(mutex_);
  owner.has_granted_.store(false, std::memory_order_relaxed);
  return std::exchange(owner.granted_, {});
}

}  // namespace outboard::storage
