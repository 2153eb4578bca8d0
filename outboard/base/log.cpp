#include <outboard/base/log.hpp>

#include <poll.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <string>

#include <outboard/base/printable.hpp>

namespace outboard {

void Log::write(Level level, std::string_view line) const {
  if (!enabled(level)) return;
  shared_->sink(level, printable(prefix_.empty() ? std::string(line) : prefix_ + ": " + std::string(line)));
}

namespace {

/// Without waiting for whoever reads it: a pipe that nobody empties, or a terminal that was stopped, must not stop what the log is
/// about. A pipe says that it has room where it takes PIPE_BUF bytes in one piece.
void write_if_room(int fd, std::string text) {
  pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
  if (::poll(&room, 1, 0) != 1 || (room.revents & POLLOUT) == 0) return;
  if (text.size() > PIPE_BUF) text.replace(PIPE_BUF - 1, std::string::npos, "\n");
  [[maybe_unused]] const auto written = ::write(fd, text.data(), text.size());
}

}  // namespace

Log Log::to_stderr(Level threshold) {
  static constexpr std::array names{"debug", "info", "warning", "error"};
  return Log(
      [](Level level, std::string_view line) {
        write_if_room(STDERR_FILENO, fmt::format("outboard: {}: {}\n", names[static_cast<std::size_t>(level)], line));
      },
      threshold);
}

}  // namespace outboard
