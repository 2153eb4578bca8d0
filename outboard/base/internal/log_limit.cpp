#include <outboard/base/internal/log_limit.hpp>

#include <algorithm>
#include <mutex>
#include <optional>

namespace outboard {
namespace {

class Limiter {
 public:
  Limiter(const Clock& clock, const LogRate& rate)
      : clock_(clock), rate_(rate), left_(rate.burst), since_(clock.now()) {}

  /// How many lines were left out since the last one that came; nothing when this one is to be left out too.
  std::optional<std::uint64_t> admit() {
    const std::lock_guard lock(mutex_);
    const TimePoint now = clock_.now();
    const auto earned = static_cast<std::uint64_t>((now - since_) / rate_.interval);
    since_ += rate_.interval * static_cast<Duration::rep>(earned);
    left_ = std::min<std::uint64_t>(left_ + earned, rate_.burst);
    if (left_ == 0) {
      ++left_out_;
      return std::nullopt;
    }
    --left_;
    return std::exchange(left_out_, 0);
  }

 private:
  std::mutex mutex_;
  const Clock& clock_;
  LogRate rate_;
  std::uint64_t left_;
  TimePoint since_;
  std::uint64_t left_out_ = 0;
};

std::optional<Level> threshold_of(const Log& log) {
  for (const Level level : {Level::debug, Level::info, Level::warning, Level::error}) {
    if (log.enabled(level)) return level;
  }
  return std::nullopt;
}

}  // namespace

Log limited(const Log& log, const Clock& clock, const LogRate& rate) {
  const auto threshold = threshold_of(log);
  if (!threshold) return {};
  const auto limiter = std::make_shared<Limiter>(clock, rate);
  return Log(
      [log, limiter](Level level, std::string_view line) {
        if (level == Level::debug) return log.write(level, line);
        const auto left_out = limiter->admit();
        if (!left_out) return;
        log.write(level, *left_out == 0 ? std::string(line)
                                        : fmt::format("{} ({} lines before it left out)", line, *left_out));
      },
      *threshold);
}

}  // namespace outboard
