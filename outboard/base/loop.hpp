#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>

#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>

namespace outboard {

using Duration = std::chrono::nanoseconds;
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;

/// A source of time. Injected, so that a test can move it by hand (testing::FakeClock).
class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() const = 0;
  /// The machine's monotonic clock.
  static Clock& system();
};

/// Readiness of a watched descriptor, as a set of bits.
enum class Ready : std::uint8_t { none = 0, readable = 1, writable = 2, hangup = 4 };
constexpr Ready operator|(Ready a, Ready b) {
  return static_cast<Ready>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}
constexpr bool has(Ready set, Ready bit) { return (static_cast<unsigned>(set) & static_cast<unsigned>(bit)) != 0; }

class Loop;

/// A registration with a Loop (a watch, a timer or a poller); ends it when destroyed. Move-only. Must be destroyed on
/// the loop's thread and before the loop. Ending a registration from inside its own callback is allowed.
class Registration {
 public:
  Registration() = default;
  Registration(Loop& loop, std::uint64_t id) : loop_(&loop), id_(id) {}
  ~Registration() { reset(); }
  Registration(Registration&& other) noexcept
      : loop_(std::exchange(other.loop_, nullptr)), id_(std::exchange(other.id_, 0)) {}
  Registration& operator=(Registration&& other) noexcept {
    if (this != &other) {
      reset();
      loop_ = std::exchange(other.loop_, nullptr);
      id_ = std::exchange(other.id_, 0);
    }
    return *this;
  }

  bool active() const { return loop_ != nullptr; }
  std::uint64_t id() const { return id_; }
  void reset();

 private:
  Loop* loop_ = nullptr;
  std::uint64_t id_ = 0;
};

/// An event loop. Everything asynchronous in the library runs on one: Reactor, or an adapter to another event loop.
/// All calls except post() and in_loop_thread() belong on the loop's own thread, or before it runs.
/// Callbacks run on the loop's thread, one at a time, never from inside the call that registered them.
class Loop {
 public:
  using Task = std::move_only_function<void()>;
  using Watcher = std::move_only_function<void(Ready)>;
  /// Returns whether it found something to do.
  using Poller = std::move_only_function<bool()>;

  virtual ~Loop() = default;

  /// Calls `watcher` whenever `fd` is ready for one of `interest` (level-triggered); hangup is always reported.
  /// The descriptor stays the caller's and must outlive the registration. EPERM for a file that cannot be polled,
  /// EEXIST: the descriptor is being watched already. EBADF.
  [[nodiscard]] virtual Result<Registration> watch(int fd, Ready interest, Watcher watcher) = 0;
  /// Changes what a watch waits for; Ready::none keeps it registered but silent, a hangup included. ENOENT: it has
  /// ended.
  virtual Status rewatch(const Registration& watch, Ready interest) = 0;

  /// Calls `signalled` when the eventfd is written to, and once at first if it was written to before; several writes may be
  /// one call. No other code may read it. Its count has no meaning: a loop may leave it unread, so a writer can saturate the
  /// counter and end its signals for good. Use it for eventfds whose writer would only harm itself.
  /// The eventfd stays the caller's and must outlive the registration. Errors as watch(); rewatch() is not for it.
  [[nodiscard]] virtual Result<Registration> watch_eventfd(const EventFd& eventfd, Task signalled);

  /// Runs `task` once, `delay` from now by the loop's clock.
  [[nodiscard]] virtual Registration after(Duration delay, Task task) = 0;

  /// Calls `poller` again and again for as long as it is registered: the loop no longer sleeps.
  [[nodiscard]] virtual Registration poll(Poller poller) = 0;

  /// Runs `task` on the loop's thread. Any thread; never blocks; in the order of posting for one poster. Tasks still
  /// queued when the loop is destroyed are destroyed without being run.
  virtual void post(Task task) = 0;

  /// Whether the calling thread is the one that runs this loop now. While no thread runs the loop it is also true on the thread
  /// that made it. Therefore, code that gives a loop a thread of its own must wait until that thread runs it (until a posted
  /// task has run) before using what lives on the loop.
  virtual bool in_loop_thread() const = 0;

  virtual const Clock& clock() const = 0;

 protected:
  friend class Registration;
  virtual void end(std::uint64_t id) = 0;
};

inline void Registration::reset() {
  if (loop_ != nullptr) std::exchange(loop_, nullptr)->end(std::exchange(id_, 0));
}

}  // namespace outboard
