#include <outboard/storage/internal/image_wait.hpp>

#include <algorithm>

#include <unistd.h>

#include <fmt/format.h>

#include <outboard/base/internal/wait.hpp>

namespace outboard::storage {

namespace {

/// A restart is not worth a line: io_uring gives descriptors back milliseconds after its process has ended. Neither is a
/// timeout of less than a second.
constexpr Duration silent = std::chrono::milliseconds(200);
constexpr Duration not_worth_a_line = std::chrono::seconds(1);
constexpr Duration min_pause = std::chrono::milliseconds(2);
constexpr Duration max_pause = std::chrono::milliseconds(100);

double in_seconds(Duration time) { return std::chrono::duration<double>(time).count(); }

}  // namespace

bool LockTimeouts::wait(Duration time) const { return pause ? pause(time) : pause_thread(time); }

Status wait_for_image(const std::string& path, const LockTimeouts& timeouts, const Log& log,
                      const std::function<Result<std::optional<Obstacle>>()>& attempt) {
  const TimePoint begin = Clock::system().now();
  // A process that was waited for as one that is ending can be gone a moment later, and another one be there.
  TimePoint since = begin;
  std::string in_the_way;
  Duration max_timeout{0};
  std::optional<std::string> waits_for;
  for (Duration pause = min_pause;; pause = std::min(2 * pause, max_pause)) {
    OUTBOARD_TRY(const auto obstacle, attempt());
    const TimePoint now = Clock::system().now();
    if (!obstacle) {
      if (waits_for) log.info("{}: free after {:.1f} s", path, in_seconds(now - begin));
      return {};
    }
    if (!in_the_way.empty() && in_the_way != obstacle->what) since = now;
    in_the_way = obstacle->what;
    max_timeout = std::max(max_timeout, obstacle->timeout);
    if (now - since >= obstacle->timeout || now - begin >= max_timeout + obstacle->timeout) return obstacle->refusal;
    if (now - begin >= silent && obstacle->timeout >= not_worth_a_line && waits_for != obstacle->who) {
      waits_for = obstacle->who;
      log.warning("{}: waiting up to {:.0f} s: {}", path, in_seconds(obstacle->timeout), obstacle->what);
    }
    // Two that start at once meet each other's locks; different pauses part them.
    if (!timeouts.wait(pause + std::chrono::milliseconds(::getpid() % 7)))
      return Error(ECANCELED, fmt::format("interrupted while waiting for {}", obstacle->who)).on(path);
  }
}

}  // namespace outboard::storage
