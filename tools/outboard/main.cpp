#include <fcntl.h>
#include <spdlog/details/os.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <mutex>
#include <new>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/base/line_writer.hpp>
#include <outboard/memory/fault_guard.hpp>
#include <tools/outboard/backend_program.hpp>
#include <tools/outboard/command.hpp>

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

/// The library's log on stderr, with the time and the level in front.
Log stderr_log(const Plan& plan) {
  if (plan.verbosity == 0 && !plan.log_warnings) return {};
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

Result<Exit> act(const Plan& plan, StopSignal& stop) {
  OUTBOARD_CHECK(memory::install_fault_guard());
  Context context{stderr_log(plan), stop};
  return plan.action(context);
}

void describe(CLI::App& app, Plan& plan) {
  app.name("outboard");
  app.require_subcommand(0, 1);
  app.set_help_flag("-h,--help", "print this help; after a verb, its own");
  app.footer(
      "A TARGET is what is driven: vfio:0000:00:04.0 (a PCI function of this machine), vfio-user:PATH, or\n"
      "local:blk,image=disk.raw (a device made in this process).\n"
      "A LISTENER is where a device is served: vfio-user:PATH.\n"
      "`outboard VERB --help` explains a verb. Exit status: 0 done, 1 failed, 2 wrong usage.\n");
  add_serve(app, plan);
  add_show(app, plan);
  add_lspci(app, plan);
  add_explain_config(app, plan);
  add_blk(app, plan);
  add_example(app, plan);
  add_edu(app, plan);
  add_new(app, plan);
  add_reset(app, plan);
  add_pci(app, plan);
  add_vduse(app, plan);
  add_doctor(app, plan);
  app.add_subcommand("help", "print this help")->silent();
}

int fail(const Error& error) {
  // Whoever read our output has no use for a message either.
  if (!nobody_reads(error)) print_error(error);
  return static_cast<int>(is_usage_error(error) ? Exit::usage : Exit::failed);
}

int run(const Plan& plan) {
  const auto stop = StopSignal::create();
  if (!stop) return fail(stop.error());
  const auto done = act(plan, **stop);
  if (done) return static_cast<int>(*done);
  // Whoever does not read what is said now keeps us no longer than to a signal.
  (*stop)->bound_end({.start = StopSignal::Start::at_signal,
                      .patience = std::chrono::seconds(1),
                      .verdict = [] { return StopSignal::Verdict::end; },
                      .say = [] {}});
  return fail(done.error());
}

/// A command line that could not be read. CLI11 speaks of a missing "subcommand" where a verb is misspelt, and lists what
/// it did not expect backwards.
Error wrong_words(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* verb = &app;
  std::string name = app.get_name();
  while (!verb->get_subcommands().empty()) {
    verb = verb->get_subcommands().front();
    name += " " + verb->get_name();
  }
  std::vector<std::string> known;
  for (const CLI::App* each : verb->get_subcommands([](const CLI::App*) { return true; }))
    known.push_back(each->get_name());
  const auto left = verb->remaining();
  const auto stray = std::ranges::find_if(left, [](const std::string& word) { return !word.starts_with('-'); });
  if (!known.empty() && stray != left.end())
    return usage_error(fmt::format("'{}' is not a word that `{}` knows", *stray, name),
                       fmt::format("it knows: {}", fmt::join(known, ", ")));
  const bool more = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  if (!known.empty() && (left.empty() || !more))
    return usage_error(fmt::format("`{}` needs one more word", name),
                       fmt::format("one of: {}", fmt::join(known, ", ")));
  if (more && left.empty())
    return usage_error(fmt::format("not expected before the verb: {}", fmt::join(app.remaining(true), " ")),
                       name + " --help");
  return usage_error(more ? fmt::format("not expected: {}", fmt::join(left, " ")) : error.what(), name + " --help");
}

/// The words in the order that CLI11 takes them, last one first. `help VERB` is another way to say `VERB --help`.
std::vector<std::string> words_of(int argc, char** argv) {
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  if (words.size() > 1 && words[0] == "help") {
    words.erase(words.begin());
    words.emplace_back("--help");
  }
  std::ranges::reverse(words);
  return words;
}

/// A socket that got the number of a closed stdout would be sent what we print.
void keep_standard_descriptors() {
  int fd = 0;
  do {
    fd = open("/dev/null", O_RDWR);  // NOLINT(android-cloexec-open): they are meant to be inherited
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

/// As many as this user may have: the usual limit of 1024 is for programs that call select().
void raise_descriptor_limit() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

int main(int argc, char** argv) {
  raise_descriptor_limit();
  keep_standard_descriptors();
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a write beyond RLIMIT_FSIZE is an error of that write
  CLI::App app("PCI and virtio devices, and their drivers, outside the kernel and outside the VMM");
  Plan plan;
  app.set_version_flag("--version", "outboard " OUTBOARD_VERSION, "print the version");
  const auto program = argc > 0 ? backend_program(argv[0]) : std::nullopt;
  program ? describe_backend_program(app, plan, *program) : describe(app, plan);
  try {
    app.parse(words_of(argc, argv));
  } catch (const CLI::Success& wanted) {  // --help, --version
    return app.exit(wanted);
  } catch (const CLI::ParseError& error) {
    return fail(wrong_words(app, error));
  }
  if (!program && app.got_subcommand("help")) {
    const auto printed = print(app.help());
    return printed ? 0 : fail(printed.error());
  }
  if (!plan.action) return fail(usage_error("no verb is given", "outboard --help lists the verbs"));
  try {
    return run(plan);
  } catch (const std::bad_alloc&) {
    std::fputs("outboard: out of memory\n  raise the limit: ulimit -v, ulimit -d, MemoryMax= of the service\n", stderr);
    return static_cast<int>(Exit::failed);
  }
}

}  // namespace

}  // namespace outboard::command

int main(int argc, char** argv) { return outboard::command::main(argc, argv); }
