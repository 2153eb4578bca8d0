#include <tools/outboard/example/line_reader.hpp>

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include <tools/outboard/stop_signal.hpp>

namespace outboard::command {

namespace {

constexpr std::size_t max_line_size = 64 << 10;

}  // namespace

bool LineReader::ready() const {
  if (ended_ || text_.find('\n') != std::string::npos) return true;
  pollfd input{fd_, POLLIN, 0};
  return poll(&input, 1, 0) != 0;
}

Result<std::optional<std::string>> LineReader::next(int stop) {
  while (true) {
    if (auto line = take_line()) return line;
    if (ended_) return std::nullopt;
    if (text_.size() > max_line_size) return Error(E2BIG, "a line without an end").on("standard input");
    std::array<pollfd, 2> fds{{{fd_, POLLIN, 0}, {stop, POLLIN, 0}}};
    if (poll(fds.data(), fds.size(), -1) < 0) continue;
    if (fds[1].revents != 0) return StopSignal::interrupted();
    std::array<char, 4096> piece;
    const ssize_t got = read(fd_, piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Error::from_errno("reading").on("standard input");
    ended_ = got == 0;
    text_.append(piece.data(), static_cast<std::size_t>(got));
  }
}

std::optional<std::string> LineReader::take_line() {
  const std::size_t end = text_.find('\n');
  const bool last = end == std::string::npos;
  if (last && (!ended_ || text_.empty())) return std::nullopt;
  std::string line = text_.substr(0, end);
  text_.erase(0, last ? text_.size() : end + 1);
  return line;
}

}  // namespace outboard::command
