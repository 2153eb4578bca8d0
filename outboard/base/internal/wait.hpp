#pragma once

#include <string_view>

#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

/// Waits that block the calling thread until a point in time of Clock::system(); signals do not prolong them. Not for the
/// thread of a loop.
namespace outboard {

/// Whether `fd` became readable, or its other end was closed, by `end`. Checks at least once.
bool wait_readable(int fd, TimePoint end);

/// Waits for `time`. Returns false, at once, when the program is to end (Interruption); the caller then stops waiting and
/// returns ECANCELED. Not for waits during cleanup. Any thread.
bool pause_thread(Duration time);

/// Makes pause_thread() return false in every thread once `fd` is readable. There may be one at a time; `fd` outlives it.
class Interruption {
 public:
  explicit Interruption(int fd);
  ~Interruption();
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;
};

/// The error ECANCELED after pause_thread() returned false; `what`: what the caller waited for.
Error interrupted_waiting_for(std::string_view what);

/// For retry_while(): matches errors with this code.
inline auto is_code(int code) {
  return [code](const Error& error) { return error.code() == code; };
}

/// Calls `attempt` at least once, and again after each `pause` while it returns an error for which `may_pass` is true, until
/// `end`. Returns the result of the last attempt (a Result or a Status). ECANCELED: see pause_thread(); the error says that
/// `what` was waited for.
template <typename MayPass, typename Attempt>
auto retry_while(MayPass may_pass, TimePoint end, Duration pause, std::string_view what, Attempt attempt) {
  while (true) {
    auto result = attempt();
    if (result || !may_pass(result.error()) || Clock::system().now() >= end) return result;
    if (!pause_thread(pause)) return decltype(result)(interrupted_waiting_for(what));
  }
}

/// Takes flock()'s exclusive lock on the open file; tries at least once. False: it was still held at `end`. ECANCELED: see
/// pause_thread(). Other errors: those of flock().
Result<bool> wait_for_lock(int fd, TimePoint end);

}  // namespace outboard
