#include <outboard/vfio_user/internal/migration_commands.hpp>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include <outboard/base/state.hpp>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
namespace feature_flag = abi::device_feature_flag;
namespace feature_id = abi::device_feature;

constexpr std::uint32_t methods = feature_flag::get | feature_flag::set;

/// What can be done with a feature: methods, or 0 for one that there is not.
std::uint32_t methods_of(std::uint32_t feature) {
  switch (feature) {
    case feature_id::migration:
    case feature_id::dma_logging_report:
      return feature_flag::get;
    case feature_id::mig_device_state:
      return feature_flag::get | feature_flag::set;
    case feature_id::dma_logging_start:
    case feature_id::dma_logging_stop:
      return feature_flag::set;
    default:
      return 0;
  }
}

Error too_short() {
  return Error(EINVAL, "DEVICE_FEATURE: the payload, or argsz, is too short for the feature's data");
}

template <typename T>
Result<T> data_of(Bytes data) {
  const auto value = ByteReader(data).read<T>();
  return value ? Result<T>(*value) : too_short();
}

Answer echo(Bytes request) { return {.payload = {request.begin(), request.end()}, .fds = {}}; }

/// The reply to a GET: its head says how long it is.
template <typename... Parts>
Answer reply_to(Bytes request, const Parts&... parts) {
  Answer answer;
  const auto append = [&](Bytes bytes) { answer.payload.insert(answer.payload.end(), bytes.begin(), bytes.end()); };
  append(request.first(sizeof(abi::DeviceFeature)));
  (append(as_bytes_of(parts)), ...);
  const auto size = static_cast<std::uint32_t>(answer.payload.size());
  std::memcpy(answer.payload.data(), &size, sizeof size);
  return answer;
}

/// The bytes of a report's bitmap. 0: the size of the pages is no power of two.
std::uint64_t bitmap_size(const abi::DmaLoggingReport& asked) {
  if (!std::has_single_bit(asked.page_size)) return 0;
  const std::uint64_t pages = asked.length / asked.page_size + (asked.length % asked.page_size != 0 ? 1 : 0);
  return (pages / 64 + (pages % 64 != 0 ? 1 : 0)) * 8;
}

}  // namespace

// The state.

Result<std::optional<MigrationState>> MigrationCommands::asked_state(Bytes request) {
  ByteReader reader(request);
  OUTBOARD_TRY(const auto head, reader.read<abi::DeviceFeature>());
  if (head.flags != (feature_flag::set | feature_id::mig_device_state)) return std::nullopt;
  const auto data = reader.read<abi::MigrationDeviceState>();
  if (!data || head.argsz < sizeof head + sizeof *data) return too_short();
  return MigrationState{data->device_state};
}

/// As the function has it: a reset that its driver began ends being stopped, too.
MigrationState MigrationCommands::state() {
  const bool stopped =
      state_ == MigrationState::stop || state_ == MigrationState::stop_copy || state_ == MigrationState::resuming;
  if (stopped && !function_.is_stopped()) was_reset();
  return state_;
}

void MigrationCommands::was_reset() {
  state_ = MigrationState::running;
  data_ = {};
}

void MigrationCommands::go_to(MigrationState wanted, Completion done) {
  if (state() == wanted && wanted != MigrationState::error) return done({});
  const auto next = next_migration_state(state_, wanted);
  if (!next) return done(Error(EINVAL, "there is no way to the state of migration that is asked for"));
  step(*next, [self = shared_from_this(), wanted, next = *next, done = std::move(done)](const Status& arrived) mutable {
    if (!arrived) return done(arrived);
    self->state_ = next;
    self->go_to(wanted, std::move(done));
  });
}

void MigrationCommands::step(MigrationState next, Completion done) {
  if (state_ == MigrationState::pre_copy && next == MigrationState::stop_copy) return stop(std::move(done));
  switch (next) {
    case MigrationState::stop:
      if (state_ == MigrationState::running) return function_.stop(std::move(done));
      if (state_ == MigrationState::resuming) return load(std::move(done));
      data_ = {};
      return done({});
    case MigrationState::running:
      return done(state_ == MigrationState::stop ? function_.run() : Status());
    case MigrationState::stop_copy:
      return done(save());
    default:
      data_ = {};
      return done({});
  }
}

/// From PRE_COPY: the function is stopped and saved in one step. Where it cannot be saved it runs on.
void MigrationCommands::stop(Completion done) {
  function_.stop([self = shared_from_this(), done = std::move(done)](const Status& stopped) mutable {
    if (!stopped) return done(stopped);
    const Status saved = self->save();
    if (!saved && !self->function_.run()) self->state_ = MigrationState::error;
    done(saved);
  });
}

Status MigrationCommands::save() {
  OUTBOARD_TRY(data_, function_.save());
  read_ = 0;
  return {};
}

void MigrationCommands::load(Completion done) {
  function_.load(std::exchange(data_, {}),
                 [self = shared_from_this(), done = std::move(done)](const Status& loaded) mutable {
                   if (!loaded) self->state_ = MigrationState::error;
                   done(loaded);
                 });
}

// DEVICE_FEATURE.

Result<Answer> MigrationCommands::feature(Bytes request) {
  ByteReader reader(request);
  OUTBOARD_TRY(const auto head, reader.read<abi::DeviceFeature>());
  if (head.argsz < sizeof head) return too_short();
  const std::uint32_t wanted = head.flags & methods, known = feature_flag::feature_mask | methods | feature_flag::probe;
  const bool probes = (head.flags & feature_flag::probe) != 0;
  // vfio-user, VFIO_USER_DEVICE_FEATURE: GET and SET "are mutually exclusive, except with" PROBE.
  if ((head.flags & ~known) != 0 || (!probes && (wanted == 0 || wanted == methods)))
    return Error(EINVAL, "DEVICE_FEATURE: not one of GET, SET and PROBE");
  const std::uint32_t offered = methods_of(head.flags & feature_flag::feature_mask);
  if (offered == 0 || (wanted & ~offered) != 0)
    return Error(ENOTTY, "DEVICE_FEATURE: there is no such feature, or it cannot be used that way");
  if (probes) return echo(request);
  return use(head.flags, request, reader.rest());
}

Result<Answer> MigrationCommands::use(std::uint32_t flags, Bytes request, Bytes data) {
  switch (flags & feature_flag::feature_mask) {
    case feature_id::migration:
      return reply_to(request, abi::Migration{.flags = abi::migration_flag::stop_copy | abi::migration_flag::pre_copy});
    case feature_id::mig_device_state:
      return reply_to(request,
                      abi::MigrationDeviceState{.device_state = static_cast<std::uint32_t>(state()), .data_fd = 0});
    case feature_id::dma_logging_start:
      return start_log(request, data);
    case feature_id::dma_logging_stop:
      function_.stop_dirty_log();
      return echo(request);
    default:
      return report(request, data);
  }
}

/// vfio-user: "The server may change page_size": the reply has the one that is noted.
Result<Answer> MigrationCommands::start_log(Bytes request, Bytes data) {
  ByteReader reader(data);
  const auto control = reader.read<abi::DmaLoggingControl>();
  if (!control || reader.remaining() / sizeof(abi::DmaLoggingRange) < control->num_ranges) return too_short();
  std::vector<memory::IovaRange> ranges;
  for (std::uint32_t i = 0; i < control->num_ranges; ++i) {
    OUTBOARD_TRY(const auto range, reader.read<abi::DmaLoggingRange>());
    ranges.push_back({memory::Iova{range.iova}, range.length});
  }
  OUTBOARD_TRY(const std::uint64_t page_size, function_.start_dirty_log(control->page_size, ranges));
  Answer answer = echo(request);
  std::memcpy(answer.payload.data() + sizeof(abi::DeviceFeature), &page_size, sizeof page_size);
  return answer;
}

Result<Answer> MigrationCommands::report(Bytes request, Bytes data) {
  OUTBOARD_TRY(const auto asked, data_of<abi::DmaLoggingReport>(data));
  const std::uint64_t size = bitmap_size(asked);
  if (size == 0 || size > max_transfer_)
    return Error(EINVAL, "DMA_LOGGING_REPORT: no such pages, or a bitmap that is too large for one message");
  Answer answer = reply_to(request, asked);
  const std::size_t head = answer.payload.size();
  const auto argsz = static_cast<std::uint32_t>(head + size);
  answer.payload.resize(argsz);
  std::memcpy(answer.payload.data(), &argsz, sizeof argsz);
  OUTBOARD_CHECK(function_.report_dirty({memory::Iova{asked.iova}, asked.length}, asked.page_size,
                                        MutableBytes(answer.payload).subspan(head)));
  return answer;
}

// Data.

Result<Answer> MigrationCommands::read_data(Bytes request) {
  OUTBOARD_TRY(const auto asked, ByteReader(request).read<spec::MigrationData>());
  if (state() != MigrationState::stop_copy && state_ != MigrationState::pre_copy)
    return Error(EINVAL, "MIG_DATA_READ: the function is not in STOP_COPY or PRE_COPY");
  if (asked.size > max_transfer_ || asked.argsz < sizeof asked || asked.argsz - sizeof asked < asked.size)
    return Error(EINVAL, "MIG_DATA_READ: more than one message can have, or than argsz has room for");
  const std::size_t left = state_ == MigrationState::pre_copy ? 0 : data_.size() - read_;
  const auto size = static_cast<std::uint32_t>(std::min<std::size_t>(asked.size, left));
  const spec::MigrationData head{.argsz = static_cast<std::uint32_t>(sizeof head + size), .size = size};
  Answer answer;
  const Bytes bytes = as_bytes_of(head), piece = Bytes(data_).subspan(read_, size);
  answer.payload.assign(bytes.begin(), bytes.end());
  answer.payload.insert(answer.payload.end(), piece.begin(), piece.end());
  read_ += size;
  return answer;
}

/// What stands behind the data is padding.
Status MigrationCommands::write_data(Bytes request) {
  ByteReader reader(request);
  OUTBOARD_TRY(const auto head, reader.read<spec::MigrationData>());
  if (state() != MigrationState::resuming) return Error(EINVAL, "MIG_DATA_WRITE: the function is not in RESUMING");
  if (head.size > max_transfer_ || head.size > reader.remaining() || head.argsz < sizeof head ||
      head.argsz - sizeof head < head.size)
    return Error(EINVAL, "MIG_DATA_WRITE: the payload has not the bytes that it says");
  if (head.size > StateWriter::max_size - data_.size())
    return Error(EFBIG, "MIG_DATA_WRITE: no state of a function is that large");
  const Bytes piece = reader.rest().first(head.size);
  data_.insert(data_.end(), piece.begin(), piece.end());
  return {};
}

}  // namespace outboard::vfio_user
