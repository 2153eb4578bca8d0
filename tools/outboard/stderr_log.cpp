#include <tools/outboard/stderr_log.hpp>

#include <array>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include <spdlog/details/os.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <outboard/base/internal/line_writer.hpp>

namespace outboard::command {

namespace {

/// stderr, in colours on a terminal that has them; never waits for whoever reads it.
class StderrSink final : public spdlog::sinks::base_sink<std::mutex> {
 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t formatted;
    formatter_->format(message, formatted);
    std::string line(formatted.data(), formatted.size());
    if (colours_ && message.color_range_end > message.color_range_start) {
      line.insert(message.color_range_end, "\033[m");
      line.insert(message.color_range_start, colour_of(message.level));
    }
    LineWriter::of_stderr().write(line);
  }
  void flush_() override {}

  static std::string_view colour_of(spdlog::level::level_enum level) {
    switch (level) {
      case spdlog::level::err:
        return "\033[31m\033[1m";
      case spdlog::level::warn:
        return "\033[33m\033[1m";
      case spdlog::level::info:
        return "\033[32m";
      default:
        return "\033[36m";
    }
  }

  bool colours_ = spdlog::details::os::is_color_terminal() && spdlog::details::os::in_terminal(stderr);
};

}  // namespace

Log stderr_log(const Plan& plan) {
  if (plan.verbosity == 0 && plan.default_log == DefaultLog::nothing) return {};
  auto logger = std::make_shared<spdlog::logger>("outboard", std::make_shared<StderrSink>());
  logger->set_pattern("%H:%M:%S.%e %^%l%$ %v");
  logger->set_level(spdlog::level::debug);
  auto& writer = LineWriter::of_stderr();
  // The logger's own one would write to stderr by itself, and wait for whoever reads it.
  logger->set_error_handler(
      [&writer](const std::string&) { writer.write("outboard: out of memory: a line of the log is missing here\n"); });
  const auto sink = [logger, &writer](Level level, std::string_view line) {
    static constexpr std::array levels{spdlog::level::debug, spdlog::level::info, spdlog::level::warn,
                                       spdlog::level::err};
    logger->log(levels[static_cast<std::size_t>(level)], "{}", line);
    if (level == Level::error) writer.flush_briefly();  // it may be the last one before a crash
  };
  return Log(sink, plan.verbosity >= 2 ? Level::debug : plan.verbosity == 1 ? Level::info : Level::warning);
}

}  // namespace outboard::command
