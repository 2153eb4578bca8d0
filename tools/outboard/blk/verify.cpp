#include <fmt/format.h>

#include <tools/outboard/blk/blk.hpp>
#include <tools/outboard/blk/progress.hpp>
#include <tools/outboard/blk/transfer.hpp>
#include <tools/outboard/json.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/pattern.hpp>
#include <tools/outboard/text.hpp>

/// `blk verify`: whether a disk returns what was written to it.
namespace outboard::command {

namespace {

struct VerifyArguments {
  TargetArguments target;
  RangeArguments range;
  bool write = false;
  std::uint64_t seed = 1;
  unsigned depth = 8;
  bool json = false;
};

struct Verify {
  DiskSession& session;
  Pattern pattern;
  std::uint64_t offset, length;
  Transfer::Options options;
};

/// How long `pass` took, in seconds.
Result<double> timed(const std::function<Status()>& pass) {
  const TimePoint began = Clock::system().now();
  OUTBOARD_CHECK(pass());
  return std::chrono::duration<double>(Clock::system().now() - began).count();
}

Status write_pass(const Verify& verify) {
  Progress progress("writing", verify.length);
  Walk walk(verify.offset, verify.length);
  OUTBOARD_TRY(const auto transfer, Transfer::create(verify.session, blk::Io::Kind::write, verify.options));
  const auto source = [&](Transfer::Piece& piece) -> Result<bool> {
    if (!walk.next(piece)) return false;
    verify.pattern.fill(piece.offset, piece.bytes);
    return true;
  };
  const auto sink = [&](const Transfer::Piece& piece) -> Status {
    progress.at(piece.offset + piece.bytes.size() - verify.offset);
    return {};
  };
  OUTBOARD_CHECK(transfer->run(source, sink));
  return verify.session.flush();
}

Status read_pass(const Verify& verify) {
  Progress progress("reading", verify.length);
  Walk walk(verify.offset, verify.length);
  OUTBOARD_TRY(const auto transfer, Transfer::create(verify.session, blk::Io::Kind::read, verify.options));
  const auto sink = [&](const Transfer::Piece& piece) -> Status {
    if (const auto different = verify.pattern.first_difference(piece.offset, piece.bytes))
      return Error(EILSEQ, fmt::format("the {} bytes at {} are not what verify --write writes there",
                                       Pattern::sector_size, *different))
          .cure("to compare, it has to have been written with the same --seed");
    progress.at(piece.offset + piece.bytes.size() - verify.offset);
    return {};
  };
  return transfer->run([&](Transfer::Piece& piece) -> Result<bool> { return walk.next(piece); }, sink);
}

std::string as_text(const Verify& verify, std::optional<double> writing, double reading) {
  const auto rate = [&](double seconds) { return rate_text(static_cast<double>(verify.length) / seconds); };
  const std::string written = writing ? fmt::format("written at {}, ", rate(*writing)) : "";
  return fmt::format("verified {} at {}: {}read at {}, all as it should be\n", size_text(verify.length), verify.offset,
                     written, rate(reading));
}

std::string as_json(const Verify& verify, std::optional<double> writing, double reading) {
  Json json{{"offset", verify.offset}, {"bytes", verify.length}};
  if (writing) json.set("write_bytes_per_second", static_cast<double>(verify.length) / *writing);
  json.set("read_bytes_per_second", static_cast<double>(verify.length) / reading);
  return json.text();
}

Result<Exit> run(const VerifyArguments& arguments, Context& context) {
  OUTBOARD_TRY(const auto session, DiskSession::open(arguments.target, context, {.depth = 128}));
  const std::uint64_t offset = arguments.range.offset, block = session->block_size();
  const std::uint64_t length =
      arguments.range.length.value_or(session->capacity() - std::min(offset, session->capacity()));
  OUTBOARD_CHECK(session->check_range(offset, length));
  if (offset % block != 0 || length % block != 0)
    return Error(EINVAL, fmt::format("the range must be whole blocks of {} bytes", block));
  const Verify verify{*session, Pattern(arguments.seed), offset, length, {.depth = arguments.depth}};
  std::optional<double> writing;
  if (arguments.write) {
    OUTBOARD_TRY(writing, timed([&] { return write_pass(verify); }));
  }
  OUTBOARD_TRY(const double reading, timed([&] { return read_pass(verify); }));
  OUTBOARD_CHECK(print(arguments.json ? as_json(verify, writing, reading) : as_text(verify, writing, reading)));
  return Exit::done;
}

}  // namespace

void add_blk_verify(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<VerifyArguments>();
  const Verb verb = add_verb(parent, plan, "verify", "check that a disk holds the pattern of --write",
                             "outboard blk verify local:blk,ram,size=64M --write", [arguments](Context& context) {
                               return arguments->target.name_in(run(*arguments, context));
                             });
  arguments->target.add_to(verb);
  arguments->range.add_to(verb, "to the end of the disk");
  verb.add_flag("--write", arguments->write, "write the pattern first; this DESTROYS the contents of the range");
  verb.add_option("--seed", arguments->seed, "seed of the pattern (default 1)").value_name("N");
  verb.add_option("--depth", arguments->depth, "requests in flight (default 8)").value_name("N").range(1, 128);
  verb.add_flag("--json", arguments->json, "as JSON");
  verb.prepend_footer(
      "Each sector of the pattern depends on its position and the seed. Without --write the disk is only read, and compared\n"
      "with the pattern of an earlier --write.");
}

}  // namespace outboard::command
