#include <outboard/testing/internal/loop_entries.hpp>

#include <sys/stat.h>

#include <string>

namespace outboard::testing {
namespace {

short poll_bits(Ready interest) {
  return static_cast<short>((has(interest, Ready::readable) ? POLLIN : 0) |
                            (has(interest, Ready::writable) ? POLLOUT : 0));
}

}  // namespace

std::uint64_t LoopEntries::add(Entry entry) {
  entries_.emplace(next_id_, std::make_shared<Entry>(std::move(entry)));
  return next_id_++;
}

Result<std::uint64_t> LoopEntries::add_watch(int fd, Ready interest, Loop::Watcher call) {
  struct stat info{};
  if (::fstat(fd, &info) < 0) return Error::from_errno("watching file descriptor " + std::to_string(fd));
  // poll(2) takes them and always says ready; epoll refuses them.
  if (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode)) return Error(EPERM, "a file cannot be watched");
  for (const auto id : ids<Watch>()) {
    if (find<Watch>(id)->fd == fd) return Error(EEXIST, "the descriptor is being watched already");
  }
  return add(Watch{fd, interest, std::move(call)});
}

std::uint64_t LoopEntries::add_timer(TimePoint now, Duration delay, Loop::Task call) {
  return add(Timer{after(now, std::max(delay, Duration::zero())), std::move(call)});
}

Status LoopEntries::rewatch(std::uint64_t id, Ready interest) {
  const auto watch = find<Watch>(id);
  if (watch == nullptr) return Error(ENOENT, "changing a watch that has ended");
  watch->interest = interest;
  return {};
}

void LoopEntries::end(std::uint64_t id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  const auto gone = std::move(found->second);
  entries_.erase(found);
}

std::optional<TimePoint> LoopEntries::next_deadline() const {
  std::optional<TimePoint> first;
  for (const auto id : ids<Timer>()) {
    const TimePoint deadline = find<Timer>(id)->deadline;
    if (!first || deadline < *first) first = deadline;
  }
  return first;
}

std::vector<std::uint64_t> LoopEntries::due(TimePoint now) const {
  std::vector<std::pair<TimePoint, std::uint64_t>> found;
  for (const auto id : ids<Timer>()) {
    const TimePoint deadline = find<Timer>(id)->deadline;
    if (deadline <= now) found.emplace_back(deadline, id);
  }
  std::ranges::sort(found);
  std::vector<std::uint64_t> sorted;
  for (const auto& [deadline, id] : found) sorted.push_back(id);
  return sorted;
}

LoopEntries::Asked LoopEntries::to_poll() const {
  Asked asked;
  for (const auto id : ids<Watch>()) {
    const auto watch = find<Watch>(id);
    if (watch->interest == Ready::none) continue;
    asked.list.push_back({watch->fd, poll_bits(watch->interest), 0});
    asked.ids.push_back(id);
  }
  return asked;
}

Ready LoopEntries::ready_of(const Watch& watch, short events) {
  if (watch.interest == Ready::none) return Ready::none;
  events = static_cast<short>(events & (poll_bits(watch.interest) | POLLHUP | POLLERR));
  Ready ready = Ready::none;
  if ((events & POLLIN) != 0) ready = ready | Ready::readable;
  if ((events & POLLOUT) != 0) ready = ready | Ready::writable;
  if ((events & (POLLHUP | POLLERR)) != 0) ready = ready | Ready::hangup;
  return ready;
}

}  // namespace outboard::testing
