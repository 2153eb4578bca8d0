#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace outboard {

enum class Level : unsigned char { debug, info, warning, error };

/// Where a part of the library says what it does. There is no global logger: a Log is handed in. Copyable and cheap; a
/// default Log is silent. The sink may be called from any thread that the object it was given to uses.
class Log {
 public:
  using Sink = std::function<void(Level, std::string_view)>;

  Log() = default;
  explicit Log(Sink sink, Level threshold = Level::info)
      : shared_(std::make_shared<const Shared>(Shared{std::move(sink), threshold})) {}

  /// Lines on stderr, with the level in front. Nobody waits for their reader, but for a moment after an error, which may be the last
  /// line before a crash: see LineWriter, whose thread the first call starts. std::bad_alloc.
  static Log to_stderr(Level threshold);

  bool enabled(Level level) const { return shared_ && level >= shared_->threshold; }
  /// The sink gets one line, printable() whatever peers have put into it. Where there is no memory for that, it gets a line that
  /// says so; std::bad_alloc is only what the sink throws for that one, too.
  void write(Level level, std::string_view line) const;

  /// The same sink with `name` in front of each line.
  Log named(std::string_view name) const {
    Log log = *this;
    log.prefix_ = prefix_.empty() ? std::string(name) : prefix_ + ": " + std::string(name);
    return log;
  }

  template <typename... Args>
  void debug(fmt::format_string<Args...> format, Args&&... args) const {
    if (enabled(Level::debug)) write(Level::debug, format, fmt::make_format_args(args...));
  }
  template <typename... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) const {
    if (enabled(Level::info)) write(Level::info, format, fmt::make_format_args(args...));
  }
  template <typename... Args>
  void warning(fmt::format_string<Args...> format, Args&&... args) const {
    if (enabled(Level::warning)) write(Level::warning, format, fmt::make_format_args(args...));
  }
  template <typename... Args>
  void error(fmt::format_string<Args...> format, Args&&... args) const {
    if (enabled(Level::error)) write(Level::error, format, fmt::make_format_args(args...));
  }

 private:
  void write(Level level, fmt::string_view format, fmt::format_args args) const;

  struct Shared {
    Sink sink;
    Level threshold;
  };
  std::shared_ptr<const Shared> shared_;
  std::string prefix_;
};

}  // namespace outboard
