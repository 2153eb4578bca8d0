#include <algorithm>
#include <numeric>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/vfio_user/client.hpp>
#include <outboard/vfio_user/memory_copy.hpp>
#include <tools/outboard/json.hpp>
#include <tools/outboard/migrate/disk_load.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/text.hpp>
#include <tools/outboard/usage_error.hpp>
#include <tools/outboard/verbs.hpp>

/// `migrate`: moves a disk from one server to another one under a load.
namespace outboard::command {

namespace {

constexpr std::string_view scheme = "vfio-user:";

struct MigrateArguments {
  TargetArguments from;
  std::string to;
  RangeArguments range;
  bool writes = false;
  bool same_memory = false;
  unsigned depth = 32;
  unsigned queues = 1;
  unsigned rounds = 16;
  std::uint64_t block = 4096;
  std::uint64_t few = std::uint64_t{1} << 20;
  double seconds = 0.5;
  bool json = false;
};

/// What a move and its load did.
struct Outcome {
  vfio_user::MigrationReport report;
  std::uint64_t copied = 0;
  std::uint64_t before = 0, during = 0, after = 0;  ///< requests
  Duration longest_before{}, longest_during{}, longest_after{};
};

Duration seconds(double number) { return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(number)); }

Result<Outcome> move(DiskLoad& load, vfio_user::Client& client, const MigrateArguments& arguments) {
  Outcome outcome;
  OUTBOARD_CHECK(load.start());
  OUTBOARD_CHECK(load.run_for(seconds(arguments.seconds)));
  outcome.before = load.ended();
  outcome.longest_before = load.take_longest();
  vfio_user::MemoryCopy copy;
  const std::uint64_t requests_a_round = arguments.depth;
  OUTBOARD_TRY(outcome.report,
               client.migrate_to(arguments.to.substr(scheme.size()),
                                 {.few_bytes = arguments.few,
                                  .max_rounds = arguments.rounds,
                                  .between_rounds = [&] { return load.run_for_requests(requests_a_round); },
                                  .memory = arguments.same_memory ? nullptr : &copy}));
  // The requests that were in flight when it was stopped.
  OUTBOARD_CHECK(load.run_for_requests(requests_a_round));
  outcome.during = load.ended() - outcome.before;
  outcome.longest_during = load.take_longest();
  outcome.copied = copy.copied();
  OUTBOARD_CHECK(load.run_for(seconds(arguments.seconds)));
  OUTBOARD_CHECK(load.stop());
  outcome.after = load.ended() - outcome.before - outcome.during;
  outcome.longest_after = load.take_longest();
  return outcome;
}

std::string as_text(const MigrateArguments& arguments, const Outcome& outcome) {
  const vfio_user::MigrationReport& report = outcome.report;
  std::string rounds;
  for (std::size_t i = 0; i + 1 < report.rounds.size(); ++i) rounds += size_text(report.rounds[i]) + ", ";
  const std::string memory = arguments.same_memory ? "the same for both servers"
                                                   : fmt::format("copied, then {} more", size_text(outcome.copied));
  return fmt::format("moved {} to {}\n", arguments.from.target, arguments.to) +
         fmt::format("  memory: {}, {}\n", size_text(report.memory_size), memory) +
         fmt::format("  written by the device in each round: {}and {} when it was stopped{}\n", rounds,
                     size_text(report.rounds.back()), report.noted ? "" : " (the old server notes nothing)") +
         fmt::format("  state: {}\n", size_text(report.state_size)) +
         fmt::format("  downtime: {} of {}\n", time_text(report.downtime), time_text(report.total)) +
         fmt::format("  requests: {} before, {} during, {} after; the longest took {}, {} and {}\n", outcome.before,
                     outcome.during, outcome.after, time_text(outcome.longest_before),
                     time_text(outcome.longest_during), time_text(outcome.longest_after));
}

std::string as_json(const MigrateArguments& arguments, const Outcome& outcome) {
  const auto us = [](Duration time) { return std::chrono::duration<double, std::micro>(time).count(); };
  const vfio_user::MigrationReport& report = outcome.report;
  return Json{{"from", arguments.from.target},
              {"to", arguments.to},
              {"memory_bytes", report.memory_size},
              {"copied_bytes", outcome.copied},
              {"round_bytes", report.rounds},
              {"noted", report.noted},
              {"state_bytes", report.state_size},
              {"downtime_us", us(report.downtime)},
              {"total_us", us(report.total)},
              {"requests", {{"before", outcome.before}, {"during", outcome.during}, {"after", outcome.after}}},
              {"longest_us",
               {{"before", us(outcome.longest_before)},
                {"during", us(outcome.longest_during)},
                {"after", us(outcome.longest_after)}}}}
      .text();
}

Status check_targets(const MigrateArguments& arguments) {
  for (const std::string& target : {arguments.from.target, arguments.to}) {
    if (!target.starts_with(scheme) || target.size() == scheme.size())
      return usage_error(fmt::format("{}: only functions on vfio-user sockets can be moved: vfio-user:PATH", target));
  }
  if (arguments.from.target == arguments.to) return usage_error("FROM and TO are the same socket");
  return {};
}

Result<DiskLoad::Options> load_options(const MigrateArguments& arguments, const DiskSession& session) {
  const std::uint64_t offset = arguments.range.offset, block = session.block_size();
  const std::uint64_t length =
      arguments.range.length.value_or(session.capacity() - std::min(offset, session.capacity()));
  OUTBOARD_CHECK(session.check_range(offset, length));
  if (arguments.block == 0 || arguments.block % block != 0 || offset % block != 0)
    return Error(EINVAL, fmt::format("--bs and --offset must be multiples of the disk's block, {} bytes", block));
  return DiskLoad::Options{.kind = arguments.writes ? DiskLoad::Kind::writes : DiskLoad::Kind::reads,
                           .depth = arguments.depth,
                           .offset = offset,
                           .length = length,
                           .block = arguments.block};
}

Result<Exit> run(const MigrateArguments& arguments, Context& context) {
  OUTBOARD_CHECK(check_targets(arguments));
  const auto depth = static_cast<std::uint16_t>(arguments.depth);
  OUTBOARD_TRY(const auto session,
               DiskSession::open(arguments.from, context, {.queues = arguments.queues, .depth = depth}));
  auto* const client = dynamic_cast<vfio_user::Client*>(&session->handle());
  if (client == nullptr) return usage_error("only functions on vfio-user sockets can be moved");
  OUTBOARD_TRY(const auto options, load_options(arguments, *session));
  DiskLoad load(*session, options);
  OUTBOARD_TRY(const Outcome outcome, move(load, *client, arguments));
  OUTBOARD_CHECK(print(arguments.json ? as_json(arguments, outcome) : as_text(arguments, outcome)));
  return Exit::done;
}

}  // namespace

void add_migrate(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<MigrateArguments>();
  const Verb verb =
      add_verb(parent, plan, "migrate", "move a disk to another server while it is used",
               "outboard migrate vfio-user:/run/old.sock vfio-user:/run/new.sock",
               [arguments](Context& context) { return arguments->from.name_in(run(*arguments, context)); });
  arguments->from.add_to(verb, "FROM");
  verb.add_option("TO", arguments->to, "the server that it moves to: vfio-user:PATH").required();
  arguments->range.add_to(verb, "to the end of the disk");
  verb.add_flag("--write", arguments->writes, "write, read back and compare; this DESTROYS the contents of the range");
  verb.add_size("--bs", arguments->block, "size of a request (default 4096)");
  verb.add_option("--depth", arguments->depth, "requests in flight on each queue (default 32)")
      .value_name("N")
      .range(1, 1024);
  verb.add_option("--queues", arguments->queues, "queues to use, at most those of the disk (default 1)")
      .value_name("N")
      .range(1, 256);
  verb.add_option("--rounds", arguments->rounds, "rounds of written memory before it is stopped (default 16)")
      .value_name("N")
      .range(0, 1000);
  verb.add_size("--few", arguments->few, "stop it when it wrote less than that in a round (default 1M)");
  verb.add_flag("--same-memory", arguments->same_memory, "give the new server the driver's memory, not a copy");
  verb.add_seconds("--seconds", arguments->seconds, 0, "load before and after the move (default 0.5)");
  verb.add_flag("--json", arguments->json, "as JSON");
  verb.prepend_footer(
      "Drives the disk at FROM, moves it to TO with requests in flight, and goes on there. TO must serve the same device with\n"
      "the same options, and have no client; of one image, TO is served with `incoming`. What the device writes to memory\n"
      "reaches TO only by what the servers report, as in a move to another machine.");
}

}  // namespace outboard::command
