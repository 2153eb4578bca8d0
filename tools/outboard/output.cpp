#include <tools/outboard/output.hpp>

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <ranges>
#include <string>

#include <outboard/base/internal/line_writer.hpp>
#include <outboard/base/internal/printable.hpp>

namespace outboard::command {

namespace {

constexpr const char* standard_output = "standard output";

}  // namespace

void print_error(const Error& error) {
  std::string text = "outboard: " + error.message() + "\n";
  if (!error.cure().empty()) text += "  " + error.cure() + "\n";
  // A message may contain text from a peer; messages of our own may have several lines.
  std::string shown;
  for (const auto line : std::views::split(text, '\n')) shown += printable(std::string_view(line)) + "\n";
  shown.pop_back();
  LineWriter::flush_stderr();  // the lines of the log come first
  std::fputs(shown.c_str(), stderr);
}

Status print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) {  // ssh and some shells make stdout non-blocking
      pollfd out{STDOUT_FILENO, POLLOUT, 0};
      poll(&out, 1, -1);
      continue;
    }
    if (written < 0) return Error::from_errno("writing").on(standard_output);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

bool nobody_reads(const Error& error) { return error.code() == EPIPE && error.subject() == standard_output; }

}  // namespace outboard::command
