#include <outboard/vfio/internal/migration.hpp>

#include <bit>
#include <vector>

#include <outboard/base/endian.hpp>

namespace outboard::vfio {
namespace {

namespace abi = vfio_abi;
namespace id = abi::device_feature;
using abi::device_feature_flag::get;
using abi::device_feature_flag::set;
using pci::MigrationState;

/// The smallest page that the kernel reports.
constexpr std::uint64_t min_dirty_page = 4096;

bool has_stream(MigrationState state) {
  return state == MigrationState::stop_copy || state == MigrationState::resuming || state == MigrationState::pre_copy ||
         state == MigrationState::pre_copy_p2p;
}

/// Words in a bitmap of `pages` bits.
std::uint64_t words_for(std::uint64_t pages) { return pages / 64 + (pages % 64 != 0 ? 1 : 0); }

}  // namespace

DeviceMigration::DeviceMigration(Kernel& kernel, const DeviceFd& device, std::string name,
                                 std::function<Status()> usable)
    : kernel_(kernel), device_(device), name_(std::move(name)), usable_(std::move(usable)) {}

Error DeviceMigration::failed(int code, const std::string& doing) const {
  return Error(code, doing + ": " + Error(code).what()).on(name_);
}

/// Uses a feature (a number of device_feature and a flag of device_feature_flag); the kernel may write to `data`.
template <typename Data>
Status DeviceMigration::use(std::uint32_t feature, Data& data, const char* doing) {
  OUTBOARD_CHECK(usable_());
  struct {
    abi::DeviceFeature head;
    Data data;
  } call{.head = {.argsz = sizeof call, .flags = feature}, .data = data};
  static_assert(sizeof call == sizeof(abi::DeviceFeature) + sizeof(Data));
  const int done = kernel_.call(device_, abi::DeviceRequest::feature, &call);
  data = call.data;
  if (done < 0) return failed(-done, doing);
  return {};
}

// States.

Result<DeviceMigration::Support> DeviceMigration::support() {
  abi::Migration offered{};
  if (auto asked = use(get | id::migration, offered, "asking whether it can be moved"); !asked) {
    if (asked.error().code() != ENOTTY) return asked.error();
    return Error(ENOTSUP, "the kernel's driver of the function cannot move it").on(name_);
  }
  if ((offered.flags & abi::migration_flag::stop_copy) == 0)
    return Error(ENOTSUP, "the kernel's driver of the function cannot save it").on(name_);
  return Support{.pre_copy = (offered.flags & abi::migration_flag::pre_copy) != 0,
                 .p2p = (offered.flags & abi::migration_flag::p2p) != 0};
}

Result<MigrationState> DeviceMigration::state() {
  abi::MigrationDeviceState now{};
  OUTBOARD_CHECK(use(get | id::mig_device_state, now, "asking for the state of the migration"));
  if (now.device_state > static_cast<std::uint32_t>(MigrationState::pre_copy_p2p))
    return Error(EPROTO, "the kernel gave a state of migration that does not exist").on(name_);
  return MigrationState{now.device_state};
}

Status DeviceMigration::set_state(MigrationState wanted) {
  abi::MigrationDeviceState call{.device_state = static_cast<std::uint32_t>(wanted), .data_fd = UINT32_MAX};
  const Status moved = use(set | id::mig_device_state, call, "changing the state of the migration");
  if (!moved) {
    // It may have got a part of the way, where a stream that there was is dead.
    const auto now = state();
    if (!now || !has_stream(*now)) stream_.reset();
    return moved;
  }
  // From PRE_COPY to STOP_COPY, and to where it is already, the kernel gives none: the stream goes on.
  if (call.data_fd != UINT32_MAX) stream_ = UniqueFd(static_cast<int>(call.data_fd));
  if (!has_stream(wanted)) stream_.reset();
  return {};
}

// The stream.

Status DeviceMigration::check_stream() const {
  OUTBOARD_CHECK(usable_());
  if (stream_.valid()) return {};
  return Error(EINVAL, "the function is in no state of migration that has data").on(name_);
}

Result<std::size_t> DeviceMigration::read(MutableBytes into) {
  OUTBOARD_CHECK(check_stream());
  std::size_t done = 0;
  while (done != into.size()) {
    const ssize_t got = kernel_.read(stream_.get(), into.subspan(done));
    // <linux/vfio.h>, VFIO_DEVICE_STATE_PRE_COPY: ENOMSG says that there are no more data for now.
    if (got == 0 || got == -ENOMSG || got == -EAGAIN) break;
    if (got < 0) return failed(static_cast<int>(-got), "reading the state of the device");
    if (static_cast<std::size_t>(got) > into.size() - done) return failed(EPROTO, "reading the state of the device");
    done += static_cast<std::size_t>(got);
  }
  return done;
}

Status DeviceMigration::write(Bytes from) {
  OUTBOARD_CHECK(check_stream());
  while (!from.empty()) {
    const ssize_t took = kernel_.write(stream_.get(), from);
    if (took < 0) return failed(static_cast<int>(-took), "writing the state of the device");
    if (took == 0 || static_cast<std::size_t>(took) > from.size())
      return failed(EIO, "writing the state of the device");
    from = from.subspan(static_cast<std::size_t>(took));
  }
  return {};
}

// The log of dirty pages.

Result<std::uint64_t> DeviceMigration::start_dirty_log(std::uint64_t page_size,
                                                       std::span<const memory::IovaRange> ranges) {
  if (ranges.empty() || ranges.size() > abi::max_dma_logging_ranges) {
    return Error(ranges.empty() ? EINVAL : E2BIG, "the kernel notes the pages of 1 to 256 ranges")
        .on(name_)
        .cure("give the ranges that are mapped; join those that are near one another");
  }
  if (!std::has_single_bit(page_size)) return failed(EINVAL, "noting dirty pages of such a size");
  std::vector<abi::DmaLoggingRange> list;
  for (const memory::IovaRange& range : ranges) list.push_back({.iova = raw(range.start), .length = range.size});
  abi::KernelDmaLoggingControl call{
      .control = {.page_size = page_size, .num_ranges = static_cast<std::uint32_t>(list.size()), .reserved = 0},
      .ranges = reinterpret_cast<std::uintptr_t>(list.data())};
  if (auto started = use(set | id::dma_logging_start, call, "noting dirty pages"); !started) {
    if (started.error().code() != ENOTTY) return started.error();
    return Error(ENOTSUP, "the kernel's driver of the function does not note dirty pages").on(name_);
  }
  if (std::has_single_bit(call.control.page_size)) return call.control.page_size;
  [[maybe_unused]] const Status stopped = stop_dirty_log();
  return Error(EPROTO, "the kernel notes pages of a size that none have").on(name_);
}

Status DeviceMigration::report_dirty(memory::IovaRange range, std::uint64_t page_size, MutableBytes bitmap) {
  const bool sizes =
      std::has_single_bit(page_size) && page_size >= min_dirty_page && range.size != 0 && range.size % page_size == 0;
  if (!sizes || bitmap.size() / 8 != words_for(range.size / page_size) || bitmap.size() % 8 != 0)
    return failed(EINVAL, "asking for dirty pages of such a size, range or bitmap");
  // The kernel sets bits and clears none, by words.
  std::vector<le64> words(bitmap.size() / 8);
  abi::KernelDmaLoggingReport call{.report = {.iova = raw(range.start), .length = range.size, .page_size = page_size},
                                   .bitmap = reinterpret_cast<std::uintptr_t>(words.data())};
  OUTBOARD_CHECK(use(get | id::dma_logging_report, call, "asking for dirty pages"));
  copy_bytes(std::as_bytes(std::span(words)), bitmap);
  return {};
}

Status DeviceMigration::stop_dirty_log() {
  OUTBOARD_CHECK(usable_());
  abi::DeviceFeature call{.argsz = sizeof call, .flags = set | id::dma_logging_stop};
  const int done = kernel_.call(device_, abi::DeviceRequest::feature, &call);
  if (done < 0 && done != -ENOTTY) return failed(-done, "ending the log of dirty pages");
  return {};
}

}  // namespace outboard::vfio
