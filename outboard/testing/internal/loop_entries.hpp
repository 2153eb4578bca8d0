#pragma once

#include <poll.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include <outboard/base/loop.hpp>

namespace outboard::testing {

/// A point in time that may lie beyond all others.
constexpr TimePoint after(TimePoint now, Duration time) {
  return time > TimePoint::max() - now ? TimePoint::max() : now + time;
}

/// The registrations of a loop for tests. Simpler than Reactor's on purpose: ids only grow, and entries are shared, so that a
/// callback may end itself. One thread.
class LoopEntries {
 public:
  struct Watch {
    int fd;
    Ready interest;
    Loop::Watcher call;
  };
  struct Timer {
    TimePoint deadline;
    Loop::Task call;
  };
  struct Poller {
    Loop::Poller call;
  };
  using Entry = std::variant<Watch, Timer, Poller>;

  /// EPERM: a file that cannot be polled; EEXIST: it is watched already; EBADF.
  Result<std::uint64_t> add_watch(int fd, Ready interest, Loop::Watcher call);
  std::uint64_t add_timer(TimePoint now, Duration delay, Loop::Task call);
  std::uint64_t add_poller(Loop::Poller call) { return add(Poller{std::move(call)}); }
  /// ENOENT: it has ended.
  Status rewatch(std::uint64_t id, Ready interest);
  /// What the entry holds is destroyed when the entry has gone.
  void end(std::uint64_t id);

  std::size_t size() const { return entries_.size(); }

  template <typename Kind>
  std::vector<std::uint64_t> ids() const {
    std::vector<std::uint64_t> found;
    for (const auto& [id, entry] : entries_) {
      if (std::holds_alternative<Kind>(*entry)) found.push_back(id);
    }
    return found;
  }
  /// The entry, which stays alive with what is returned; null: it has ended.
  template <typename Kind>
  std::shared_ptr<Kind> find(std::uint64_t id) const {
    const auto found = entries_.find(id);
    if (found == entries_.end()) return nullptr;
    Kind* const kind = std::get_if<Kind>(found->second.get());
    return kind == nullptr ? nullptr : std::shared_ptr<Kind>(found->second, kind);
  }

  std::optional<TimePoint> next_deadline() const;
  /// Timers whose time has come, the earliest first.
  std::vector<std::uint64_t> due(TimePoint now) const;
  /// What poll(2) has to be asked, and the watch of each.
  struct Asked {
    std::vector<pollfd> list;
    std::vector<std::uint64_t> ids;
  };
  Asked to_poll() const;
  /// What the answer to a question of to_poll() says to a watch; Ready::none: nothing.
  static Ready ready_of(const Watch& watch, short events);

 private:
  std::uint64_t add(Entry entry);

  std::map<std::uint64_t, std::shared_ptr<Entry>> entries_;
  std::uint64_t next_id_ = 1;
};

}  // namespace outboard::testing
