#include <outboard/vfio_user/internal/client_move.hpp>

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include <outboard/base/internal/system_calls.hpp>
#include <outboard/base/internal/wait.hpp>

namespace outboard::vfio_user {
namespace {

using pci::MigrationState;

constexpr std::uint64_t usual_page = 4096;
/// Bytes of the state in one message.
constexpr std::size_t piece = std::size_t{64} << 10;
/// No function's state is larger; a server that never ends is refused.
constexpr std::uint64_t max_state = std::uint64_t{1} << 32;

Error unlike(const std::string& what) {
  return Error(ENOTSUP, "the two servers' functions are not alike: " + what)
      .cure("start both servers with the same device and options");
}

Error at(const ServerConnection& server, const Error& error) { return Error(error).on(server.name()); }

}  // namespace

ClientMove::ClientMove(MovedClient client, ServerConnection& to, const MigrationOptions& options)
    : client_(client),
      to_(to),
      options_(options),
      from_migration_(client.connection),
      to_migration_(to),
      observer_{.mapped =
                    [this](const ClientMapping& mapping) {
                      if (auto mapped = map_at_new(mapping); !mapped && !mapping_failed_)
                        mapping_failed_ = mapped.error();
                    },
                .unmapping = [this](const ClientMapping& mapping) { unmap_at_new(mapping); }} {}

ClientMove::~ClientMove() { end_observing(); }

void ClientMove::end_observing() {
  client_.memory.observe(nullptr);
  client_.served.observe(nullptr);
}

Result<MigrationReport> ClientMove::run() {
  const TimePoint started = system_calls().now();
  OUTBOARD_CHECK(check_alike());
  Status moved = begin();
  if (moved) moved = run_rounds();
  const TimePoint stopped = system_calls().now();
  if (moved) moved = move_state();
  if (moved) moved = arrive();
  end_observing();
  if (!moved) {
    const Error failed = Error(moved.error()).while_doing("moving the function to " + to_.name());
    const Status runs = go_back();
    if (runs) return failed;
    return Error(runs.error())
        .while_doing("running on after an error (" + failed.message() + ")")
        .cure("reset the device");
  }
  const TimePoint now = system_calls().now();
  report_.downtime = now - stopped;
  report_.total = now - started;
  return std::move(report_);
}

/// What the driver has found at the old server it must find at the new one.
Status ClientMove::check_alike() const {
  const Description& from = client_.connection.description();
  const Description& to = to_.description();
  for (unsigned region = 0; region < from.regions.size(); ++region) {
    const auto &ours = from.regions[region].info, &theirs = to.regions[region].info;
    if (to.regions[region].refused) return at(to_, *to.regions[region].refused);
    if (ours.size != theirs.size || ours.readable != theirs.readable || ours.writable != theirs.writable)
      return unlike("region " + std::to_string(region));
  }
  for (std::size_t kind = 0; kind < from.interrupts.size(); ++kind) {
    if (from.interrupts[kind].count > to.interrupts[kind].count) return unlike("their interrupts");
  }
  if (from.resettable && !to.resettable) return unlike("one has no reset");
  const auto &ours = from.server, &theirs = to.server;
  if (theirs.max_dma_maps < client_.memory.mappings().size()) return unlike("one takes fewer mappings of memory");
  if ((ours.pgsizes & ~theirs.pgsizes & (~ours.pgsizes + 1)) != 0) return unlike("one maps larger pages only");
  return {};
}

/// The log starts before memory is copied: what is written in between is in both.
Status ClientMove::begin() {
  OUTBOARD_TRY(const auto offered, from_migration_.support());
  OUTBOARD_CHECK(to_migration_.support());
  OUTBOARD_CHECK(to_migration_.set_state(MigrationState::resuming));
  OUTBOARD_CHECK(start_log());
  client_.memory.observe(&observer_);
  client_.served.observe([this](const memory::IovaRange& written) { copy_written(written); });
  OUTBOARD_CHECK(map_all());
  if (!offered.pre_copy) return {};
  OUTBOARD_CHECK(from_migration_.set_state(MigrationState::pre_copy));
  return move_data();
}

/// A kernel driver wants ranges; others can take them for a limit.
Status ClientMove::start_log() {
  auto page = from_migration_.start_dirty_log(usual_page, {});
  if (!page && page.error().code() == EINVAL) {
    std::vector<memory::IovaRange> ranges;
    for (const auto& [start, mapping] : client_.memory.mappings()) ranges.push_back(mapping.range);
    page = from_migration_.start_dirty_log(usual_page, ranges);
  }
  if (page) {
    page_size_ = *page;
  } else if (page.error().code() == ENOTSUP) {
    report_.noted = false;
  } else {
    return page.error();
  }
  stage_ = Stage::logging;
  return {};
}

// Memory.

Status ClientMove::map_all() {
  for (const auto& [start, mapping] : client_.memory.mappings()) OUTBOARD_CHECK(map_at_new(mapping));
  return {};
}

Status ClientMove::map_at_new(const ClientMapping& mapping) {
  if (mapping.not_kept) return Error(*mapping.not_kept).while_doing("keeping the file of the driver's memory");
  ClientMapping theirs = mapping;
  if (options_.memory != nullptr) {
    if (!mapping.file) return Error(ENOTSUP, "memory that has no file cannot be copied for the new server");
    OUTBOARD_TRY(const auto file, options_.memory->add(mapping.range, mapping.bytes,
                                                       {.fd = mapping.file.get(), .offset = mapping.offset}));
    // Known from here on: what fails below is removed by go_back().
    mapped_.insert_or_assign(mapping.range.start, mapping);
    OUTBOARD_TRY(UniqueFd copy, file.fd->duplicate());
    theirs.file = std::make_shared<const UniqueFd>(std::move(copy));
    theirs.offset = file.offset;
  }
  if (auto done = ask_map(to_, theirs, theirs.file.get()); !done)
    return at(to_, done.error()).while_doing("mapping the driver's memory at the new server");
  mapped_.insert_or_assign(mapping.range.start, std::move(theirs));
  return {};
}

void ClientMove::unmap_at_new(const ClientMapping& mapping) {
  // A later report would not have it any more.
  if (auto copied = copy_dirty(mapping); !copied && !mapping_failed_) mapping_failed_ = copied.error();
  if (auto done = ask_unmap(to_, mapping.range); !done && !mapping_failed_) mapping_failed_ = done.error();
  if (options_.memory != nullptr) options_.memory->remove(mapping.range);
  mapped_.erase(mapping.range.start);
}

/// As long as that makes less to do: a driver that writes faster than is copied would never be stopped.
Status ClientMove::run_rounds() {
  for (unsigned round = 0; report_.noted && round < options_.max_rounds; ++round) {
    if (options_.between_rounds) OUTBOARD_CHECK(options_.between_rounds());
    if (mapping_failed_) return *mapping_failed_;
    OUTBOARD_TRY(const std::uint64_t dirty, copy_dirty());
    report_.rounds.push_back(dirty);
    if (dirty < options_.few_bytes) break;
  }
  return {};
}

Result<std::uint64_t> ClientMove::copy_dirty() {
  std::uint64_t bytes = std::exchange(written_by_messages_, 0);
  for (const auto& [start, mapping] : client_.memory.mappings()) {
    OUTBOARD_TRY(const std::uint64_t dirty, copy_dirty(mapping));
    bytes += dirty;
  }
  return bytes;
}

Result<std::uint64_t> ClientMove::copy_dirty(const ClientMapping& mapping) {
  if (!allows(mapping.access, memory::Access::write)) return std::uint64_t{0};
  if (!report_.noted) {
    if (options_.memory != nullptr) options_.memory->copy(mapping.range);
    return mapping.range.size;
  }
  std::uint64_t pages = 0;
  const std::uint64_t most = from_migration_.max_bitmap() * 8 * page_size_;
  for (std::uint64_t done = 0; done < mapping.range.size;) {
    const memory::IovaRange part{mapping.range.start + done, std::min(most, mapping.range.size - done)};
    std::vector<std::byte> bitmap((pages_of(part) + 63) / 64 * 8);
    OUTBOARD_CHECK(from_migration_.report_dirty(part, page_size_, bitmap));
    copy_pages(part, bitmap);
    for (const std::byte byte : bitmap) pages += static_cast<unsigned>(std::popcount(std::to_integer<unsigned>(byte)));
    done += part.size;
  }
  return std::min(pages * page_size_, mapping.range.size);
}

/// What the server writes by messages is no part of what it notes. The range may lie in several mappings.
void ClientMove::copy_written(memory::IovaRange range) {
  for (const auto& [start, mapping] : client_.memory.mappings()) {
    const std::uint64_t first = std::max(raw(range.start), raw(mapping.range.start)) / usual_page * usual_page;
    const std::uint64_t last = std::min(raw(range.last()), raw(mapping.range.last()));
    if (first > last) continue;
    const std::uint64_t end = std::min(last / usual_page * usual_page + (usual_page - 1), raw(mapping.range.last()));
    if (options_.memory != nullptr) options_.memory->copy({memory::Iova{first}, end - first + 1});
    written_by_messages_ += end - first + 1;
  }
}

/// Pages that follow one another are copied together.
void ClientMove::copy_pages(memory::IovaRange range, Bytes bitmap) {
  if (options_.memory == nullptr) return;
  const std::uint64_t pages = pages_of(range);
  const auto is_dirty = [&](std::uint64_t page) {
    return (bitmap[page / 8] & (std::byte{1} << (page % 8))) != std::byte{0};
  };
  for (std::uint64_t page = 0; page < pages;) {
    if (!is_dirty(page)) {
      ++page;
      continue;
    }
    const std::uint64_t first = page;
    while (page < pages && is_dirty(page)) ++page;
    const std::uint64_t offset = first * page_size_;
    options_.memory->copy({range.start + offset, std::min((page - first) * page_size_, range.size - offset)});
  }
}

// State.

Status ClientMove::move_state() {
  if (mapping_failed_) return *mapping_failed_;
  stage_ = Stage::stopped;
  OUTBOARD_CHECK(from_migration_.set_state(MigrationState::stop_copy));
  OUTBOARD_TRY(const std::uint64_t dirty, copy_dirty());
  report_.rounds.push_back(dirty);
  OUTBOARD_CHECK(move_data());
  // Here the new server checks and takes the state.
  const Status loaded = to_migration_.set_state(MigrationState::stop);
  if (loaded) return {};
  return Error(loaded.error())
      .while_doing("loading the function's state there")
      .cure("the new server's log says what it refuses; start both servers with the same device and options");
}

Status ClientMove::move_data() {
  std::vector<std::byte> data(std::min<std::uint64_t>({piece, client_.connection.max_transfer(), to_.max_transfer()}));
  for (std::size_t size = data.size(); size == data.size();) {
    OUTBOARD_TRY(size, from_migration_.read(data));
    OUTBOARD_CHECK(to_migration_.write(Bytes(data).first(size)));
    report_.state_size += size;
    if (report_.state_size > max_state) return at(client_.connection, Error(EFBIG, "the function's state has no end"));
  }
  return {};
}

/// From the stopped device's state to one that runs at the new server.
Status ClientMove::arrive() {
  if (options_.memory != nullptr) {
    OUTBOARD_CHECK(options_.memory->take_over());
    stage_ = Stage::memory_taken;
  }
  OUTBOARD_CHECK(client_.interrupts.bind_at(to_));
  ClientDoorbells theirs(to_);
  OUTBOARD_TRY(const auto doorbells, client_.doorbells.match(theirs));
  stage_ = Stage::windows_taken;
  OUTBOARD_CHECK(client_.regions.map_windows_from(to_.description()));
  OUTBOARD_CHECK(to_migration_.set_state(MigrationState::running));
  if (const auto rings = ClientDoorbells::ring(doorbells); !rings)
    client_.connection.options().log.error("{}: a doorbell was lost in the move: {}", to_.name(),
                                           rings.error().message());
  for (const auto& [start, mapping] : mapped_) report_.memory_size += mapping.range.size;
  client_.memory.set_files(std::move(mapped_));
  return {};
}

/// The old server's function runs on, with the memory and the windows that it had.
Status ClientMove::go_back() {
  const Log& log = client_.connection.options().log;
  to_.requests().end(Error(ECANCELED, "the move has failed"));
  if (stage_ >= Stage::windows_taken) {
    if (auto back = client_.regions.map_windows_from(client_.connection.description()); !back)
      log.error("{}: windows are lost: {}", client_.connection.name(), back.error().message());
  }
  if (options_.memory != nullptr) {
    if (stage_ >= Stage::memory_taken) options_.memory->give_back();
    for (const auto& [start, mapping] : mapped_) options_.memory->remove(mapping.range);
  }
  if (stage_ < Stage::logging || client_.connection.gone()) return {};
  // Where it fails the log goes with the connection.
  [[maybe_unused]] const Status ended = report_.noted ? from_migration_.stop_dirty_log() : Status();
  // Where the new server ran, it takes a moment to let go of what only one of the two can have.
  const TimePoint end = Clock::system().now() + client_.connection.options().timeout;
  return retry_while(is_code(EBUSY), end, std::chrono::milliseconds(5), "the new server to let go",
                     [this] { return from_migration_.set_state(MigrationState::running); });
}

}  // namespace outboard::vfio_user
