#include <tools/outboard/line_writer.hpp>

#include <poll.h>
#include <unistd.h>

#include <climits>
#include <string>

#include <fmt/format.h>

namespace outboard::command {

void LineWriter::write(std::string_view line) {
  pollfd ready{.fd = fd_, .events = POLLOUT, .revents = 0};
  // A pipe says so where it has room for PIPE_BUF bytes, and takes so many in one piece.
  if (::poll(&ready, 1, 0) != 1 || (ready.revents & POLLOUT) == 0) {
    ++dropped_;
    return;
  }
  std::string text;
  if (dropped_ != 0) text = fmt::format("({} lines of this log are missing here: nobody read them)\n", dropped_);
  text += line;
  if (text.size() > PIPE_BUF) {
    text.resize(PIPE_BUF - 1);
    text += '\n';
  }
  dropped_ = 0;
  [[maybe_unused]] const auto written = ::write(fd_, text.data(), text.size());  // nobody to tell
}

}  // namespace outboard::command
