#include <outboard/base/log.hpp>

#include <array>
#include <iterator>
#include <new>
#include <string>

#include <outboard/base/internal/line_writer.hpp>
#include <outboard/base/internal/printable.hpp>

namespace outboard {

void Log::write(Level level, std::string_view line) const { write(level, "{}", fmt::make_format_args(line)); }

void Log::write(Level level, fmt::string_view format, fmt::format_args args) const {
  if (!enabled(level)) return;
  try {
    const std::string line = fmt::vformat(format, args);
    shared_->sink(level, printable(prefix_.empty() ? line : prefix_ + ": " + line));
  } catch (const std::bad_alloc&) {
    shared_->sink(level, "out of memory: a line of the log is missing here");
  }
}

Log Log::to_stderr(Level threshold) {
  static constexpr std::array names{"debug", "info", "warning", "error"};
  // Now, and not with the first line: it takes a thread, and a lock that a fork() must not meet.
  return Log(
      [&writer = LineWriter::of_stderr()](Level level, std::string_view line) {
        fmt::memory_buffer text;  // a short line needs no memory
        fmt::format_to(std::back_inserter(text), "outboard: {}: {}\n", names[static_cast<std::size_t>(level)], line);
        writer.write({text.data(), text.size()});
        if (level == Level::error) writer.flush_briefly();
      },
      threshold);
}

}  // namespace outboard
