#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace outboard {

enum class Level : unsigned char { debug, info, warning, error };

/// The log of an object. There is no global logger: a Log is passed in. Cheap to copy; a default Log is silent. The sink may
/// be called on any thread that the object uses.
class Log {
 public:
  using Sink = std::function<void(Level, std::string_view)>;

  Log() = default;
  explicit Log(Sink sink, Level threshold = Level::info)
      : shared_(std::make_shared<const Shared>(Shared{std::move(sink), threshold})) {}

  /// Writes lines with their level to stderr. Does not wait for the reader, except briefly after an error, which may be the last
  /// line before a crash: see LineWriter, whose thread the first call starts. std::bad_alloc.
  static Log to_stderr(Level threshold);

  bool enabled(Level level) const { return shared_ && level >= shared_->threshold; }
  /// Passes one line to the sink; control characters from peers are escaped (printable()). Without memory for the line, the sink
  /// gets a line that says so. std::bad_alloc: the sink throws it for that line, too.
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
