#include <fmt/format.h>

#include <deque>

#include <tools/outboard/blk/blk.hpp>
#include <tools/outboard/blk/histogram.hpp>
#include <tools/outboard/blk/progress.hpp>
#include <tools/outboard/disk_session.hpp>
#include <tools/outboard/json.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/text.hpp>
#include <tools/outboard/usage_error.hpp>

/// `blk bench`: measures requests per second and latency.
namespace outboard::command {

namespace {

/// An element's length has 32 bits.
constexpr std::uint64_t max_block = UINT64_C(1) << 30;

struct BenchArguments {
  TargetArguments target;
  RangeArguments range;
  std::string pattern = "randread";
  std::uint64_t block = 4096;
  unsigned depth = 32;
  unsigned queues = 1;
  double seconds = 2;
  bool poll = false;
  bool json = false;

  bool writes() const { return pattern.ends_with("write"); }
  bool random() const { return pattern.starts_with("rand"); }
};

/// One run. Requests are submitted again from their completions, so the depth is held; nothing is allocated then.
class Bench {
 public:
  Bench(DiskSession& session, const BenchArguments& arguments, std::uint64_t offset, std::uint64_t length)
      : session_(session), arguments_(arguments), offset_(offset), blocks_(length / arguments.block) {}

  Status run();

  double seconds() const { return std::chrono::duration<double>(ended_ - began_).count(); }
  const Histogram& latencies() const { return *latencies_; }
  double mean_ns() const { return latencies_->count() == 0 ? 0 : total_ns_ / static_cast<double>(latencies_->count()); }

 private:
  struct Slot {
    Bench* bench;
    blk::Queue* queue;
    blk::Io io;
    memory::DmaBuffer buffer;
    virtio::Element element;
    TimePoint submitted;
  };

  Status prepare();
  void next(Slot& slot, TimePoint now);
  void completed(Slot& slot);
  Status turn();
  std::uint64_t next_block();
  void fail(const Error& error) {
    if (!failure_) failure_ = error;
  }
  bool over(TimePoint now) const { return now >= end_ || failure_ || session_.stop().requested(); }

  DiskSession& session_;
  const BenchArguments& arguments_;
  std::uint64_t offset_, blocks_;
  std::deque<Slot> slots_;
  std::unique_ptr<Histogram> latencies_ = std::make_unique<Histogram>();
  double total_ns_ = 0;
  std::uint64_t random_ = 0x2545F4914F6CDD1D, sequence_ = 0;
  unsigned in_flight_ = 0, turns_ = 0;
  TimePoint began_, end_, ended_;
  std::optional<Error> failure_;
};

Status Bench::prepare() {
  blk::Driver& driver = session_.driver();
  for (unsigned i = 0; i < arguments_.depth * driver.queue_count(); ++i) {
    OUTBOARD_TRY(auto buffer, driver.dma().allocate(arguments_.block, {.alignment = 4096}));
    Slot& slot =
        slots_.emplace_back(Slot{this, &driver.queue(i % driver.queue_count()), {}, std::move(buffer), {}, {}});
    slot.element = {slot.buffer.iova(), static_cast<std::uint32_t>(arguments_.block)};
  }
  return {};
}

/// Xorshift: good enough to spread requests, and next to free.
std::uint64_t Bench::next_block() {
  if (!arguments_.random()) return sequence_++ % blocks_;
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return random_ % blocks_;
}

void Bench::next(Slot& slot, TimePoint now) {
  slot.io = {};
  slot.io.kind = arguments_.writes() ? blk::Io::Kind::write : blk::Io::Kind::read;
  slot.io.sector = blk::Sector{(offset_ + next_block() * arguments_.block) / blk::sector_size};
  slot.io.data = {&slot.element, 1};
  slot.io.context = &slot;
  slot.io.done = [](blk::Io& io) {
    auto& ended = *static_cast<Slot*>(io.context);
    ended.bench->completed(ended);
  };
  slot.submitted = now;
  if (auto submitted = slot.queue->submit(slot.io); !submitted) return fail(submitted.error());
  ++in_flight_;
}

void Bench::completed(Slot& slot) {
  --in_flight_;
  session_.ended(slot.io);
  const TimePoint now = Clock::system().now();
  if (slot.io.error != 0)
    return fail(DiskSession::io_error(slot.io.error, arguments_.writes() ? "writing" : "reading"));
  const auto taken = (now - slot.submitted).count();
  latencies_->record(static_cast<std::uint64_t>(taken));
  total_ns_ += static_cast<double>(taken);
  ended_ = now;
  if (!over(now)) next(slot, now);
}

/// Polling looks at the rings without a pause; the loop, for what else there is, gets its turn now and then.
Status Bench::turn() {
  static constexpr unsigned turns_between = 1024;
  static constexpr Duration for_ever(-1);  // the driver has its timeout; one of ours would cost a timer a request
  if (!arguments_.poll) return session_.pump_regardless(for_ever);
  blk::Driver& driver = session_.driver();
  for (unsigned i = 0; i < driver.queue_count(); ++i) driver.queue(i).poll();
  if (++turns_ % turns_between != 0) return {};
  return session_.process();
}

Status Bench::run() {
  OUTBOARD_CHECK(prepare());
  Progress progress(fmt::format("{} of {}", arguments_.pattern, size_text(arguments_.block)), 0);
  began_ = ended_ = Clock::system().now();
  end_ = began_ + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(arguments_.seconds));
  for (auto& slot : slots_) next(slot, Clock::system().now());
  for (unsigned i = 0; i < session_.driver().queue_count(); ++i) session_.driver().queue(i).publish();
  while (in_flight_ != 0) {
    if (auto done = turn(); !done) {
      session_.abandon();  // while the slots are still there
      return done;
    }
    if (!arguments_.poll || turns_ % 65536 == 0) progress.at(latencies_->count() * arguments_.block);
  }
  if (failure_) return *failure_;
  return {};
}

Json as_json(const BenchArguments& arguments, const Bench& bench, unsigned queues) {
  const Histogram& latencies = bench.latencies();
  const auto us = [](double ns) { return ns / 1000; };
  const double iops = static_cast<double>(latencies.count()) / bench.seconds();
  return {{"target", arguments.target.target},
          {"rw", arguments.pattern},
          {"block_size", arguments.block},
          {"depth", arguments.depth},
          {"queues", queues},
          {"poll", arguments.poll},
          {"seconds", bench.seconds()},
          {"ios", latencies.count()},
          {"iops", iops},
          {"bytes_per_second", iops * static_cast<double>(arguments.block)},
          {"latency_us",
           {{"mean", us(bench.mean_ns())},
            {"p50", us(static_cast<double>(latencies.quantile(0.5)))},
            {"p99", us(static_cast<double>(latencies.quantile(0.99)))},
            {"p999", us(static_cast<double>(latencies.quantile(0.999)))},
            {"max", us(static_cast<double>(latencies.highest()))}}}};
}

std::string as_text(const BenchArguments& arguments, const Bench& bench, unsigned queues) {
  const Histogram& latencies = bench.latencies();
  const auto time = [](std::uint64_t ns) { return time_text(Duration(ns)); };
  const double iops = static_cast<double>(latencies.count()) / bench.seconds();
  return fmt::format("{} of {}, depth {}, {} queue{}, {}: {:.1f} s\n", arguments.pattern, size_text(arguments.block),
                     arguments.depth, queues, queues == 1 ? "" : "s", arguments.poll ? "polled" : "interrupts",
                     bench.seconds()) +
         fmt::format("  {:.0f} requests/s, {}\n", iops, rate_text(iops * static_cast<double>(arguments.block))) +
         fmt::format("  latency: half within {}, 99% within {}, 99.9% within {}, all within {}\n",
                     time(latencies.quantile(0.5)), time(latencies.quantile(0.99)), time(latencies.quantile(0.999)),
                     time(latencies.highest()));
}

Status check(const BenchArguments& arguments, const DiskSession& session, std::uint64_t length) {
  OUTBOARD_CHECK(session.check_range(arguments.range.offset, length));
  const std::uint64_t block = session.block_size();
  if (arguments.block == 0 || arguments.block % block != 0 || arguments.range.offset % block != 0)
    return Error(EINVAL, fmt::format("--bs and --offset must be multiples of the disk's block, {} bytes", block));
  if (arguments.block > max_block)
    return usage_error(fmt::format("--bs: {} is more than {}", arguments.block, size_text(max_block)));
  if (arguments.block > length)
    return Error(EINVAL, fmt::format("{} bytes are less than one request of {}", length, arguments.block));
  return {};
}

Result<Exit> run(const BenchArguments& arguments, Context& context) {
  const auto depth = static_cast<std::uint16_t>(arguments.depth);
  blk::Driver::Options options{.queues = arguments.queues, .depth = depth, .poll = arguments.poll};
  OUTBOARD_TRY(const auto session, DiskSession::open(arguments.target, context, options));
  const std::uint64_t offset = arguments.range.offset;
  const std::uint64_t length =
      arguments.range.length.value_or(session->capacity() - std::min(offset, session->capacity()));
  OUTBOARD_CHECK(check(arguments, *session, length));
  Bench bench(*session, arguments, offset, length);
  OUTBOARD_CHECK(bench.run());
  const unsigned queues = session->driver().queue_count();
  OUTBOARD_CHECK(print(arguments.json ? as_json(arguments, bench, queues).text() : as_text(arguments, bench, queues)));
  return Exit::done;
}

}  // namespace

void add_blk_bench(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<BenchArguments>();
  const Verb verb =
      add_verb(parent, plan, "bench", "measure requests per second and latency",
               "outboard blk bench vfio-user:/run/blk.sock --rw randread --bs 4096 --depth 32 --seconds 2",
               [arguments](Context& context) { return arguments->target.name_in(run(*arguments, context)); });
  arguments->target.add_to(verb);
  arguments->range.add_to(verb, "to the end of the disk");
  verb.add_option("--rw", arguments->pattern,
                  "randread (default), randwrite, read or write; writes DESTROY the contents of the disk")
      .value_name("KIND")
      .one_of({"randread", "randwrite", "read", "write"});
  verb.add_size("--bs", arguments->block, "size of a request (default 4096)");
  verb.add_option("--depth", arguments->depth, "requests in flight on each queue (default 32)")
      .value_name("N")
      .range(1, 1024);
  verb.add_option("--queues", arguments->queues, "queues to use, at most those of the disk (default 1)")
      .value_name("N")
      .range(1, 256);
  verb.add_seconds("--seconds", arguments->seconds, 0.01, "duration (default 2)");
  verb.add_flag("--poll", arguments->poll, "busy-poll the rings instead of waiting for interrupts");
  verb.add_flag("--json", arguments->json, "as JSON: iops, bytes_per_second, latency_us with p50, p99, p999, ...");
  verb.prepend_footer("Ctrl-C ends it early and prints the figures so far.");
}

}  // namespace outboard::command
