#include <tests/support/fake_vfio_migration.hpp>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include <outboard/vfio_user/internal/migration_path.hpp>
#include <tests/support/own_mappings.hpp>

namespace outboard::testing {
namespace {

namespace abi = vfio_abi;
namespace id = abi::device_feature;
namespace flag = abi::device_feature_flag;
using pci::MigrationState;

/// vfio_check_feature(): 1 when the feature is to be used.
int check_feature(std::uint32_t flags, std::size_t size, std::uint32_t operations, std::size_t smallest) {
  if ((flags & (flag::get | flag::set) & ~operations) != 0) return -EINVAL;
  if ((flags & flag::probe) != 0) return 0;
  if ((flags & (flag::get | flag::set)) == 0) return -EINVAL;
  return size < smallest ? -EINVAL : 1;
}

template <typename T>
void put(std::uintptr_t argument, const T& value) {
  std::memcpy(user_memory(argument), &value, sizeof value);
}

bool aligned(const abi::DmaLoggingRange& range, std::uint64_t page) {
  return range.iova % page == 0 && range.length % page == 0;
}

}  // namespace

std::optional<int> FakeVfioMigration::feature(std::uint32_t flags, std::size_t size, std::uintptr_t argument) {
  const auto checked = [&](std::uint32_t operations, std::size_t smallest, auto act) {
    const int use = check_feature(flags, size, operations, smallest);
    return use == 1 ? act() : use;
  };
  switch (flags & flag::feature_mask) {
    case id::migration:
      return checked(flag::get, sizeof(abi::Migration), [&] {
        put(argument, abi::Migration{.flags = abi::migration_flag::stop_copy |
                                              (options_.pre_copy ? abi::migration_flag::pre_copy : 0)});
        return 0;
      });
    case id::mig_device_state:
      return checked(flag::get | flag::set, sizeof(abi::MigrationDeviceState), [&] {
        if ((flags & flag::set) != 0) return set_state(argument);
        put(argument,
            abi::MigrationDeviceState{.device_state = static_cast<std::uint32_t>(state), .data_fd = UINT32_MAX});
        return 0;
      });
    case id::dma_logging_start:
      if (!options_.logs) return -ENOTTY;
      return checked(flag::set, sizeof(abi::KernelDmaLoggingControl), [&] { return start_log(argument); });
    case id::dma_logging_stop:
      if (!options_.logs) return -ENOTTY;
      return checked(flag::set, 0, [&] {
        logged_page.reset();
        return 0;
      });
    case id::dma_logging_report:
      if (!options_.logs) return -ENOTTY;
      return checked(flag::get, sizeof(abi::KernelDmaLoggingReport), [&] { return report(argument); });
    default:
      return std::nullopt;
  }
}

void FakeVfioMigration::reset() {
  state = MigrationState::running;
  if (stream_) stream_->dead = true;
  stream_.reset();
  logged_page.reset();
}

// States.

int FakeVfioMigration::set_state(std::uintptr_t argument) {
  auto call = copy_in<abi::MigrationDeviceState>(argument);
  const MigrationState wanted{call.device_state};
  call.data_fd = UINT32_MAX;
  put(argument, call);
  if (wanted == MigrationState::pre_copy && !options_.pre_copy) return -EINVAL;
  const auto before = stream_;
  while (state != wanted) {
    const auto next = vfio_user::next_migration_state(state, wanted);
    if (!next) return -EINVAL;
    if (const int done = step(*next, *next == wanted); done < 0) return done;
  }
  if (!stream_ || stream_ == before) return 0;
  const int fd = open_stream(stream_);
  call.data_fd = static_cast<std::uint32_t>(fd);
  put(argument, call);
  return fd < 0 ? fd : 0;
}

int FakeVfioMigration::step(MigrationState next, bool last) {
  const bool goes_on = state == MigrationState::pre_copy && next == MigrationState::stop_copy;
  if (stream_ && !goes_on) {
    stream_->dead = true;
    stream_.reset();
  }
  if (fails_after == state) {
    state = MigrationState::error;
    return -EIO;
  }
  state = next;
  const bool streams =
      next == MigrationState::stop_copy || next == MigrationState::resuming || next == MigrationState::pre_copy;
  if (!last || !streams || goes_on) return 0;
  stream_ = std::make_shared<Stream>(Stream{.migration = this, .dead = false});
  read_ = 0;
  if (next == MigrationState::resuming) loaded.clear();
  return 0;
}

// The stream.

ssize_t FakeVfioMigration::Stream::read(MutableBytes into) const {
  if (dead) return -ENODEV;
  FakeVfioMigration& of = *migration;
  if (of.state == MigrationState::resuming) return -EBADF;
  const bool early = of.state == MigrationState::pre_copy;
  const std::size_t end = early ? std::min(of.available_early, of.saved.size()) : of.saved.size();
  const std::size_t size = std::min({into.size(), of.options_.max_transfer, end - std::min(end, of.read_)});
  if (size == 0) return early ? -ENOMSG : 0;
  copy_bytes(Bytes(of.saved).subspan(of.read_, size), into);
  of.read_ += size;
  return static_cast<ssize_t>(size);
}

ssize_t FakeVfioMigration::Stream::write(Bytes from) const {
  if (dead) return -ENODEV;
  FakeVfioMigration& of = *migration;
  if (of.state != MigrationState::resuming) return -EBADF;
  const Bytes taken = from.first(std::min(from.size(), of.options_.max_transfer));
  of.loaded.insert(of.loaded.end(), taken.begin(), taken.end());
  return static_cast<ssize_t>(taken.size());
}

// The log.

int FakeVfioMigration::start_log(std::uintptr_t argument) {
  auto call = copy_in<abi::KernelDmaLoggingControl>(argument);
  if (call.control.num_ranges == 0) return -EINVAL;
  if (call.control.num_ranges > abi::max_dma_logging_ranges) return -E2BIG;
  if (!std::has_single_bit(call.control.page_size)) return -EINVAL;
  std::vector<memory::IovaRange> ranges;
  for (std::uint32_t i = 0; i < call.control.num_ranges; ++i) {
    const auto range = copy_in<abi::DmaLoggingRange>(call.ranges + i * sizeof(abi::DmaLoggingRange));
    if (!aligned(range, call.control.page_size)) return -EINVAL;
    if (range.iova + range.length < range.iova) return -EOVERFLOW;
    const auto meets = [&](const memory::IovaRange& other) {
      return range.iova < raw(other.start) + other.size && raw(other.start) < range.iova + range.length;
    };
    if (std::ranges::any_of(ranges, meets)) return -EINVAL;
    ranges.push_back({memory::Iova{range.iova}, range.length});
  }
  if (logged_page) return -EINVAL;
  logged = std::move(ranges);
  logged_page = std::max(call.control.page_size, options_.min_page);
  call.control.page_size = *logged_page;
  put(argument, call);
  return 0;
}

int FakeVfioMigration::report(std::uintptr_t argument) {
  const auto call = copy_in<abi::KernelDmaLoggingReport>(argument);
  const auto& asked = call.report;
  if (asked.page_size < 4096 || !std::has_single_bit(asked.page_size)) return -EINVAL;
  if (asked.iova + asked.length < asked.iova) return -EOVERFLOW;
  if (!logged_page) return -EINVAL;
  std::erase_if(dirty, [&](std::uint64_t at) {
    if (at < asked.iova || at - asked.iova >= asked.length) return false;
    const std::uint64_t page = (at - asked.iova) / asked.page_size;
    const std::uintptr_t word = call.bitmap + page / 64 * 8;
    put(word, copy_in<std::uint64_t>(word) | UINT64_C(1) << page % 64);
    return true;
  });
  return 0;
}

}  // namespace outboard::testing
