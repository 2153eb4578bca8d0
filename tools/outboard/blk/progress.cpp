#include <tools/outboard/blk/progress.hpp>

#include <unistd.h>

#include <fmt/format.h>

#include <tools/outboard/text.hpp>

namespace outboard::command {

namespace {

constexpr Duration first_delay = std::chrono::seconds(1), pace = std::chrono::milliseconds(200);

}  // namespace

Progress::Progress(std::string what, std::uint64_t total, const Clock& clock, std::FILE* to)
    : clock_(clock),
      to_(to),
      what_(std::move(what)),
      total_(total),
      terminal_(isatty(fileno(to)) == 1),
      began_(clock.now()),
      next_(began_ + first_delay) {}

Progress::~Progress() {
  if (!shown_) return;
  std::fputs("\r\033[K", to_);
  std::fflush(to_);
}

void Progress::at(std::uint64_t bytes) {
  if (!terminal_) return;
  if (const TimePoint now = clock_.now(); now >= next_) show(bytes, now);
}

void Progress::show(std::uint64_t bytes, TimePoint now) {
  const double seconds = std::chrono::duration<double>(now - began_).count();
  const std::string share =
      total_ == 0 ? ""
                  : fmt::format("{:3.0f}% of {}, ", 100.0 * static_cast<double>(bytes) / static_cast<double>(total_),
                                size_text(total_));
  fmt::print(to_, "\r\033[K{}: {}{}, {}", what_, share, size_text(bytes),
             rate_text(static_cast<double>(bytes) / seconds));
  std::fflush(to_);
  shown_ = true;
  next_ = now + pace;
}

}  // namespace outboard::command
