#include <outboard/base/log.hpp>

#include <array>
#include <string>

#include <outboard/base/line_writer.hpp>
#include <outboard/base/printable.hpp>

namespace outboard {

void Log::write(Level level, std::string_view line) const {
  if (!enabled(level)) return;
  shared_->sink(level, printable(prefix_.empty() ? std::string(line) : prefix_ + ": " + std::string(line)));
}

Log Log::to_stderr(Level threshold) {
  static constexpr std::array names{"debug", "info", "warning", "error"};
  // Now, and not with the first line: it takes a thread, and a lock that a fork() must not meet.
  return Log(
      [&writer = LineWriter::of_stderr()](Level level, std::string_view line) {
        writer.write(fmt::format("outboard: {}: {}\n", names[static_cast<std::size_t>(level)], line));
        if (level == Level::error) writer.flush_briefly();
      },
      threshold);
}

}  // namespace outboard
