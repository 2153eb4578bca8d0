#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstring>

#include <fmt/format.h>

#include <tools/outboard/blk/blk.hpp>
#include <tools/outboard/blk/progress.hpp>
#include <tools/outboard/blk/transfer.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/text.hpp>
#include <tools/outboard/usage_error.hpp>

/// `blk read` and `blk write`: a range of bytes, to stdout and from stdin.
namespace outboard::command {

namespace {

struct ReadArguments {
  TargetArguments target;
  RangeArguments range;
  bool force = false;
};

struct WriteArguments {
  TargetArguments target;
  RangeArguments range;
};

std::uint64_t round_down(std::uint64_t value, std::uint64_t unit) { return value - value % unit; }
std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) { return round_down(value + unit - 1, unit); }

/// The part of a piece of whole blocks that lies in [begin, end).
Bytes wanted_part(const Transfer::Piece& piece, std::uint64_t begin, std::uint64_t end) {
  const std::uint64_t first = std::max(begin, piece.offset) - piece.offset;
  const std::uint64_t last = std::min(end, piece.offset + piece.bytes.size()) - piece.offset;
  return Bytes(piece.bytes).subspan(first, last - first);
}

/// The size of one write to stdout after poll(2). A file takes all.
std::size_t max_write() {
  struct stat out{};
  return fstat(STDOUT_FILENO, &out) == 0 && S_ISREG(out.st_mode) ? SIZE_MAX : PIPE_BUF;
}

/// Writes to stdout. A reader that does not read does not delay the handling of a signal.
Status put_out(DiskSession& session, std::string_view bytes) {
  const std::size_t max_size = max_write();
  while (!bytes.empty()) {
    OUTBOARD_CHECK(session.wait_for(STDOUT_FILENO, POLLOUT));
    const auto part = bytes.substr(0, max_size);
    OUTBOARD_CHECK(print(part));
    bytes.remove_prefix(part.size());
  }
  return {};
}

Result<Exit> read(const ReadArguments& arguments, Context& context) {
  if (isatty(STDOUT_FILENO) == 1 && !arguments.force)
    return usage_error("the bytes of the disk are not printed on a terminal",
                       "redirect them (> FILE), or give --force");
  OUTBOARD_TRY(const auto session, DiskSession::open(arguments.target, context, {}));
  const std::uint64_t begin = arguments.range.offset;
  const std::uint64_t length =
      arguments.range.length.value_or(session->capacity() - std::min(begin, session->capacity()));
  OUTBOARD_CHECK(session->check_range(begin, length));
  const std::uint64_t end = begin + length, block = session->block_size();
  Progress progress("reading", length);
  const std::uint64_t first = round_down(begin, block), last = std::min(round_up(end, block), session->capacity());
  Walk walk(first, length == 0 ? 0 : last - first);
  OUTBOARD_TRY(const auto transfer, Transfer::create(*session, blk::Io::Kind::read, {}));
  OUTBOARD_CHECK(transfer->run([&](Transfer::Piece& piece) -> Result<bool> { return walk.next(piece); },
                               [&](const Transfer::Piece& piece) -> Status {
                                 const Bytes bytes = wanted_part(piece, begin, end);
                                 progress.at(piece.offset + piece.bytes.size() - first);
                                 return put_out(*session, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
                               }));
  return Exit::done;
}

/// What comes from stdin, as pieces of whole blocks. The blocks at the two ends may be covered only in part: they are
/// read first.
class Input {
 public:
  Input(DiskSession& session, std::uint64_t offset, std::optional<std::uint64_t> length)
      : session_(session), at_(offset), begin_(offset), limit_(length) {}

  Result<bool> next(Transfer::Piece& piece);
  std::uint64_t written() const { return at_ - begin_; }

 private:
  Result<std::size_t> fill(MutableBytes into);
  Status complete_block(std::uint64_t offset, MutableBytes block, MutableBytes keep_from_input);
  std::uint64_t left() const { return limit_ ? *limit_ - written() : UINT64_MAX; }

  DiskSession& session_;
  std::uint64_t at_, begin_;
  std::optional<std::uint64_t> limit_;
  bool ended_ = false;
};

/// As much as there is until end of file, or all of `into`.
Result<std::size_t> Input::fill(MutableBytes into) {
  std::size_t done = 0;
  while (done < into.size() && !ended_) {
    OUTBOARD_CHECK(session_.wait_for(STDIN_FILENO, POLLIN));
    const ssize_t count = ::read(STDIN_FILENO, into.data() + done, into.size() - done);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) return Error::from_errno("reading").on("standard input");
    ended_ = count == 0;
    done += static_cast<std::size_t>(count);
  }
  return done;
}

/// Reads the block at `offset` from the disk, and puts it around the bytes that came from the input.
Status Input::complete_block(std::uint64_t offset, MutableBytes block, MutableBytes input) {
  const std::vector<std::byte> kept(input.begin(), input.end());
  OUTBOARD_TRY(const auto buffer, session_.driver().dma().allocate(block.size()));
  const virtio::Element element{buffer.iova(), static_cast<std::uint32_t>(block.size())};
  blk::Io io;
  io.sector = blk::Sector{offset / blk::sector_size};
  io.data = {&element, 1};
  if (auto done = session_.run(io); !done)
    return Error(done.error()).while_doing(fmt::format("reading the block at {}, which is written in part", offset));
  copy_bytes(buffer.bytes().first(block.size()), block);
  copy_bytes(kept, input);
  return {};
}

Result<bool> Input::next(Transfer::Piece& piece) {
  if (ended_ || left() == 0) return false;
  const std::uint64_t block = session_.block_size(), head = at_ % block;
  piece.offset = at_ - head;
  const MutableBytes room = piece.bytes.subspan(head);
  OUTBOARD_TRY(const std::size_t count, fill(room.first(std::min<std::uint64_t>(room.size(), left()))));
  if (count == 0) return false;
  OUTBOARD_CHECK(session_.check_range(at_, count));
  const std::uint64_t used = head + count, whole = round_up(used, block);
  // The last block first: it may be the first one as well, and then it has both ends.
  if (used != whole) {
    const std::uint64_t from = std::max(whole - block, head);
    OUTBOARD_CHECK(complete_block(piece.offset + whole - block, piece.bytes.subspan(whole - block, block),
                                  piece.bytes.subspan(from, used - from)));
  }
  if (head != 0 && (used == whole || whole > block)) {
    const std::uint64_t to = std::min(block, used);
    OUTBOARD_CHECK(complete_block(piece.offset, piece.bytes.first(block), piece.bytes.subspan(head, to - head)));
  }
  piece.bytes = piece.bytes.first(whole);
  at_ += count;
  return true;
}

Result<Exit> write(const WriteArguments& arguments, Context& context) {
  OUTBOARD_TRY(const auto session, DiskSession::open(arguments.target, context, {}));
  const auto& range = arguments.range;
  OUTBOARD_CHECK(session->check_range(range.offset, range.length.value_or(0)));
  Input input(*session, range.offset, range.length);
  Progress progress("writing", range.length.value_or(0));
  OUTBOARD_TRY(const auto transfer, Transfer::create(*session, blk::Io::Kind::write, {}));
  std::uint64_t bytes = 0;
  OUTBOARD_CHECK(transfer->run([&](Transfer::Piece& piece) { return input.next(piece); },
                               [&](const Transfer::Piece& piece) -> Status {
                                 progress.at(bytes += piece.bytes.size());
                                 return {};
                               }));
  OUTBOARD_CHECK(session->flush());
  if (range.length && input.written() != *range.length)
    return Error(ENODATA,
                 fmt::format("ended after {} of {} bytes; they have been written", input.written(), *range.length))
        .on("standard input");
  OUTBOARD_CHECK(print(fmt::format("wrote {} bytes at {}\n", input.written(), range.offset)));
  return Exit::done;
}

}  // namespace

void add_blk_read(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<ReadArguments>();
  const Verb verb =
      add_verb(parent, plan, "read", "copy bytes of a disk to stdout",
               "outboard blk read vfio-user:/run/blk.sock --offset 1M --length 4K | xxd",
               [arguments](Context& context) { return arguments->target.name_in(read(*arguments, context)); });
  arguments->target.add_to(verb);
  arguments->range.add_to(verb, "to the end of the disk");
  verb.add_flag("--force", arguments->force, "write to a terminal, too");
}

void add_blk_write(const Verb& parent, Plan& plan) {
  const auto arguments = std::make_shared<WriteArguments>();
  const Verb verb =
      add_verb(parent, plan, "write", "copy bytes from stdin to a disk, and flush it",
               "outboard blk write vfio-user:/run/blk.sock --offset 1M < data.bin",
               [arguments](Context& context) { return arguments->target.name_in(write(*arguments, context)); });
  arguments->target.add_to(verb);
  arguments->range.add_to(verb, "until stdin ends");
  verb.prepend_footer(
      "Offset and length may have any value: a block that is covered in part is read, changed and written.");
}

}  // namespace outboard::command
