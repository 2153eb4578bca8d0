#include <outboard/vfio_user/internal/client_migration.hpp>

#include <algorithm>
#include <bit>
#include <vector>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
namespace id = abi::device_feature;
using abi::device_feature_flag::get;
using abi::device_feature_flag::set;
using pci::MigrationState;
using spec::Command;

/// Of the pages that a server may note.
constexpr std::uint64_t min_page = 512, max_page = std::uint64_t{1} << 30;

/// Servers that know none of it say so in different ways.
Error not_movable(const Error& error) {
  const bool unknown = error.code() == ENOTTY || error.code() == ENOSYS || error.code() == EINVAL;
  return unknown ? Error(ENOTSUP, "the server cannot move its function") : error;
}

template <typename T>
void append(std::vector<std::byte>& to, const T& value) {
  const Bytes bytes = as_bytes_of(value);
  to.insert(to.end(), bytes.begin(), bytes.end());
}

}  // namespace

template <typename Take>
Status ClientMigration::use(std::uint32_t feature, Bytes data, std::size_t reply_size, Take&& take) {
  OUTBOARD_CHECK(connection_.may_wait());
  const abi::DeviceFeature head{
      .argsz = static_cast<std::uint32_t>(sizeof(abi::DeviceFeature) + std::max(data.size(), reply_size)),
      .flags = feature};
  const auto done = ask(connection_.requests(),
                        {.command = Command::device_feature,
                         .head = as_bytes_of(head),
                         .tail = data,
                         .min_reply = sizeof head + reply_size,
                         .max_reply = sizeof head + std::max(data.size(), reply_size),
                         .timeout = connection_.options().reset_timeout},
                        [&](const Requests::Reply& reply) -> Status {
                          ByteReader reader(reply.payload);
                          OUTBOARD_TRY(const auto echo, reader.read<abi::DeviceFeature>());
                          if (echo.flags != head.flags)
                            return Error(EPROTO, "the server answered for another feature than was asked for");
                          return take(reader.rest());
                        });
  if (!done) return connection_.named(done.error());
  return {};
}

// States.

Result<ClientMigration::Support> ClientMigration::support() {
  abi::Migration offered{};
  const Status asked = use(get | id::migration, {}, sizeof offered, [&offered](Bytes data) -> Status {
    OUTBOARD_TRY(offered, ByteReader(data).read<abi::Migration>());
    return {};
  });
  if (!asked) return not_movable(asked.error());
  if ((offered.flags & abi::migration_flag::stop_copy) == 0)
    return connection_.named(Error(ENOTSUP, "the server cannot save its function"));
  return Support{.pre_copy = (offered.flags & abi::migration_flag::pre_copy) != 0,
                 .p2p = (offered.flags & abi::migration_flag::p2p) != 0};
}

Result<MigrationState> ClientMigration::state() {
  abi::MigrationDeviceState now{};
  OUTBOARD_CHECK(use(get | id::mig_device_state, {}, sizeof now, [&now](Bytes data) -> Status {
    OUTBOARD_TRY(now, ByteReader(data).read<abi::MigrationDeviceState>());
    return {};
  }));
  if (now.device_state > static_cast<std::uint32_t>(MigrationState::pre_copy_p2p))
    return connection_.named(Error(EPROTO, "the server is in a state of migration that does not exist"));
  return MigrationState{now.device_state};
}

Status ClientMigration::set_state(MigrationState wanted) {
  const abi::MigrationDeviceState state{.device_state = static_cast<std::uint32_t>(wanted), .data_fd = 0};
  return use(set | id::mig_device_state, as_bytes_of(state), 0, [](Bytes) { return Status(); });
}

// Data.

Result<std::size_t> ClientMigration::read(MutableBytes into) {
  std::size_t done = 0;
  while (done != into.size()) {
    const std::size_t asked = std::min<std::size_t>(into.size() - done, connection_.max_transfer());
    OUTBOARD_TRY(const std::size_t got, read_piece(into.subspan(done, asked)));
    done += got;
    if (got < asked) break;
  }
  return done;
}

/// The reply may be padded to what was asked for.
Result<std::size_t> ClientMigration::read_piece(MutableBytes into) {
  OUTBOARD_CHECK(connection_.may_wait());
  const auto size = static_cast<std::uint32_t>(into.size());
  const spec::MigrationData asked{.argsz = static_cast<std::uint32_t>(sizeof asked + size), .size = size};
  std::size_t got = 0;
  const auto done = ask(connection_.requests(),
                        {.command = Command::mig_data_read,
                         .head = as_bytes_of(asked),
                         .min_reply = sizeof asked,
                         .max_reply = sizeof asked + size},
                        [&](const Requests::Reply& reply) -> Status {
                          ByteReader reader(reply.payload);
                          OUTBOARD_TRY(const auto head, reader.read<spec::MigrationData>());
                          if (head.size > size || head.size > reader.remaining())
                            return Error(EPROTO, "the server sent other data of its state than it says");
                          copy_bytes(reader.rest().first(head.size), into);
                          got = head.size;
                          return {};
                        });
  if (!done) return connection_.named(done.error());
  return got;
}

Status ClientMigration::write(Bytes from) {
  while (!from.empty()) {
    const std::size_t size = std::min<std::size_t>(from.size(), connection_.max_transfer());
    OUTBOARD_CHECK(write_piece(from.first(size)));
    from = from.subspan(size);
  }
  return {};
}

Status ClientMigration::write_piece(Bytes from) {
  const auto size = static_cast<std::uint32_t>(from.size());
  const spec::MigrationData head{.argsz = static_cast<std::uint32_t>(sizeof head + size), .size = size};
  // The specification's reply has no payload; some servers send the request's head.
  return connection_.ask_named({.command = Command::mig_data_write,
                                .head = as_bytes_of(head),
                                .tail = from,
                                .max_reply = sizeof head,
                                .timeout = connection_.options().reset_timeout});
}

// The log of dirty pages.

Result<std::uint64_t> ClientMigration::start_dirty_log(std::uint64_t page_size,
                                                       std::span<const memory::IovaRange> ranges) {
  abi::DmaLoggingControl control{
      .page_size = page_size, .num_ranges = static_cast<std::uint32_t>(ranges.size()), .reserved = 0};
  std::vector<std::byte> data;
  append(data, control);
  for (const memory::IovaRange& range : ranges)
    append(data, abi::DmaLoggingRange{.iova = raw(range.start), .length = range.size});
  const Status started = use(set | id::dma_logging_start, data, sizeof control, [&control](Bytes reply) -> Status {
    OUTBOARD_TRY(control, ByteReader(reply).read<abi::DmaLoggingControl>());
    return {};
  });
  if (!started) return started.error().code() == ENOTTY ? not_movable(started.error()) : started.error();
  if (!std::has_single_bit(control.page_size) || control.page_size < min_page || control.page_size > max_page)
    return connection_.named(Error(EPROTO, "the server notes pages of a size that none have"));
  return control.page_size;
}

std::size_t ClientMigration::max_bitmap() const {
  constexpr std::uint64_t head = sizeof(abi::DeviceFeature) + sizeof(abi::DmaLoggingReport);
  return std::max<std::uint64_t>(connection_.max_transfer(), head + 8) / 8 * 8 - head;
}

Status ClientMigration::report_dirty(memory::IovaRange range, std::uint64_t page_size, MutableBytes bitmap) {
  const abi::DmaLoggingReport asked{.iova = raw(range.start), .length = range.size, .page_size = page_size};
  return use(get | id::dma_logging_report, as_bytes_of(asked), sizeof asked + bitmap.size(), [&](Bytes reply) {
    copy_bytes(reply.subspan(sizeof asked).first(bitmap.size()), bitmap);
    return Status();
  });
}

Status ClientMigration::stop_dirty_log() {
  return use(set | id::dma_logging_stop, {}, 0, [](Bytes) { return Status(); });
}

}  // namespace outboard::vfio_user
