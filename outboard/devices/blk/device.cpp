#include <outboard/devices/blk/device.hpp>

#include <algorithm>
#include <bit>
#include <cstring>

#include <fmt/format.h>

#include <outboard/devices/blk/internal/device_disk.hpp>
#include <outboard/devices/blk/internal/device_limits.hpp>
#include <outboard/devices/blk/internal/device_request_queue.hpp>

namespace outboard::blk {

namespace {

constexpr std::byte state_version{1};
constexpr std::size_t state_size = 2;

Status check(const Device::Options& options) {
  if (options.queues == 0 || options.queues > device_limits::max_queues)
    return Error(EINVAL,
                 fmt::format("queues is {}: it must be between 1 and {}", options.queues, device_limits::max_queues));
  if (!std::has_single_bit(options.queue_size) || options.queue_size < device_limits::min_queue_size ||
      options.queue_size > device_limits::max_queue_size)
    return Error(EINVAL, fmt::format("queue-size is {}: it must be a power of two between {} and {}",
                                     options.queue_size, device_limits::min_queue_size, device_limits::max_queue_size));
  if (options.id.size() > spec::id_size)
    return Error(EINVAL, fmt::format("serial '{}' is longer than {} bytes", options.id, spec::id_size));
  if (options.seg_max > options.queue_size - 2U)
    return Error(EINVAL,
                 fmt::format("seg_max is {}: the queue has room for {}", options.seg_max, options.queue_size - 2));
  if (options.size_max != 0 && options.size_max < sector_size)
    return Error(EINVAL, fmt::format("size_max is {}: it must hold a sector", options.size_max));
  return {};
}

virtio::Features offered_features(const storage::Geometry& geometry, const Device::Options& options) {
  // VIRTIO 1.4, 5.2.5.2: "Devices SHOULD always offer VIRTIO_BLK_F_FLUSH, and MUST offer it if they offer
  // VIRTIO_BLK_F_CONFIG_WCE."
  virtio::Features features{feature::seg_max, feature::blk_size, feature::flush, feature::topology,
                            feature::config_wce};
  if (options.size_max != 0) features.set(feature::size_max);
  if (options.queues > 1) features.set(feature::mq);
  if (geometry.read_only) features.set(feature::ro);
  if (options.discard && !geometry.read_only) {
    features.set(feature::write_zeroes);
    if (geometry.can_discard) features.set(feature::discard);
  }
  return features;
}

/// What a driver reads, but for the two fields that change.
spec::Config config_of(const storage::Geometry& geometry, const Device::Options& options, const Disk& disk) {
  spec::Config config;
  config.size_max = options.size_max;
  config.seg_max = options.seg_max;
  config.blk_size = geometry.logical_block;
  const std::uint32_t physical = std::max(geometry.physical_block, geometry.logical_block);
  config.physical_block_exp =
      static_cast<std::uint8_t>(std::countr_zero(physical) - std::countr_zero(geometry.logical_block));
  config.min_io_size = static_cast<std::uint16_t>(std::min(physical / geometry.logical_block, 65535U));
  config.opt_io_size = geometry.optimal_io / geometry.logical_block;
  config.num_queues = static_cast<std::uint16_t>(options.queues);
  const virtio::Features offered = offered_features(geometry, options);
  if (offered.has(feature::discard)) {
    config.max_discard_sectors = disk.max_discard_sectors;
    config.max_discard_seg = device_limits::max_range_segments;
    config.discard_sector_alignment = physical / static_cast<std::uint32_t>(sector_size);
  }
  if (offered.has(feature::write_zeroes)) {
    config.max_write_zeroes_sectors = disk.max_write_zeroes_sectors;
    config.max_write_zeroes_seg = disk.max_write_zeroes_segments;
    config.write_zeroes_may_unmap = geometry.can_unmap_zeroes ? 1 : 0;
  }
  return config;
}

}  // namespace

Result<std::unique_ptr<Device>> Device::create(std::unique_ptr<storage::Backend> backend, const Options& options) {
  OUTBOARD_CHECK(check(options));
  return std::unique_ptr<Device>(new Device(std::move(backend), options));
}

Device::Device(std::unique_ptr<storage::Backend> backend, const Options& options)
    : options_(options), backend_(std::move(backend)), disk_(std::make_unique<Disk>(*backend_)) {
  if (options_.seg_max == 0) options_.seg_max = options_.queue_size - 2U;
  std::ranges::copy(options_.id, disk_->id.begin());
  disk_->max_discard_sectors = device_limits::max_fast_range_sectors;
  const bool fast = backend_->geometry().can_write_zeroes;
  disk_->max_write_zeroes_sectors =
      fast ? device_limits::max_fast_range_sectors : device_limits::max_slow_range_sectors;
  disk_->max_write_zeroes_segments = fast ? device_limits::max_range_segments : 1;
  for (unsigned queue = 0; queue < options_.queues; ++queue)
    queues_.push_back(std::make_unique<RequestQueue>(*disk_, queue));
}

/// The storage first, which waits for what the kernel carries out: the requests that are with it hold the memory.
Device::~Device() {
  for (const auto& queue : queues_) queue->drop_storage();
  backend_.reset();
}

virtio::Identity Device::identity() const {
  return {.device_id = device_id,
          .features = offered_features(backend_->geometry(), options_),
          .queue_sizes = std::vector<std::uint16_t>(options_.queues, options_.queue_size),
          .config_size = spec::config_size,
          .max_chain = std::max(options_.seg_max + 2 + device_limits::spare_elements, device_limits::min_chain_limit)};
}

std::string Device::description() const {
  return fmt::format("{}, {} bytes", backend_->description(), backend_->geometry().capacity);
}

Status Device::attach(virtio::Host& host) {
  host_ = &host;
  disk_->host = &host;
  disk_->log = host.log();
  return {};
}

void Device::take_features(const virtio::Features& accepted) {
  disk_->discard = accepted.has(feature::discard);
  disk_->write_zeroes = accepted.has(feature::write_zeroes);
}

bool Device::accept_features(const virtio::Features& accepted) {
  take_features(accepted);
  // VIRTIO 1.4, 5.2.5.2: "If VIRTIO_BLK_F_CONFIG_WCE is negotiated but VIRTIO_BLK_F_FLUSH is not, the device MUST
  // initialize writeback to 0." 5.2.6.2: a driver that accepted neither cannot flush, so every write is stable.
  disk_->writeback = accepted.has(feature::flush);
  return true;
}

void Device::read_config(std::uint32_t offset, MutableBytes into) {
  spec::Config config = config_of(backend_->geometry(), options_, *disk_);
  config.capacity = disk_->capacity.load(std::memory_order_relaxed);
  config.writeback = disk_->writeback ? 1 : 0;
  const Bytes bytes = as_bytes_of(config);
  if (range_within(offset, into.size(), bytes.size())) copy_bytes(bytes.subspan(offset, into.size()), into);
}

void Device::write_config(std::uint32_t offset, Bytes from) {
  constexpr std::uint32_t field = offsetof(spec::Config, writeback);
  const bool covered = offset <= field && field - offset < from.size();
  // The only field a driver may write, and only if it negotiated that.
  if (!covered || !host_->negotiated().has(feature::config_wce)) return;
  const auto value = std::to_integer<std::uint8_t>(from[field - offset]);
  if (value <= 1) disk_->writeback = value == 1;
}

Status Device::start_queue(unsigned queue, const virtio::QueueState& /*state*/) {
  queues_[queue]->begin();
  // A device that goes on with another's state (recovery, migration) has not seen FEATURES_OK.
  take_features(host_->negotiated());
  return {};
}

/// Nothing is kept: what was handed over is with the storage and ends for itself, work of many steps after the next step
/// when its answer is not wanted.
void Device::stop_queue(unsigned queue, virtio::StopMode mode, Completion done) {
  RequestQueue& requests = *queues_[queue];
  if (mode == virtio::StopMode::discard) discard_queue(queue);
  if (!requests.has_own_loop()) return done();
  Loop& control = host_->control_loop();
  host_->queue_loop(queue).post([&requests, &control, done = std::move(done)]() mutable {
    requests.close();
    control.post(std::move(done));
  });
}

void Device::discard_queue(unsigned queue) { queues_[queue]->give_up(); }

void Device::handle(virtio::Request request) {
  RequestQueue& queue = *queues_[request.queue_index()];
  queue.handle(std::move(request));
}

void Device::batch_end(unsigned queue) { queues_[queue]->batch_end(); }

bool Device::poll(unsigned queue) { return queues_[queue]->poll(); }

Result<std::vector<std::byte>> Device::save_state() {
  return std::vector{state_version, disk_->writeback ? std::byte{1} : std::byte{0}};
}

Status Device::restore_state(Bytes state) {
  if (state.empty()) return restore_nothing();
  if (state[0] != state_version)
    return Error(EINVAL, fmt::format("the disk's state has version {}, and this device knows version {}",
                                     std::to_integer<unsigned>(state[0]), std::to_integer<unsigned>(state_version)));
  if (state.size() != state_size || state[1] > std::byte{1})
    return Error(EINVAL, "the disk's state is not consistent: writeback");
  const bool writeback = state[1] == std::byte{1};
  // Before FEATURES_OK nothing is negotiated, and what follows from it is not decided.
  const virtio::Features accepted = host_->negotiated();
  const bool may_write_back = accepted.empty() || accepted.has(feature::flush) || accepted.has(feature::config_wce);
  if (writeback && !may_write_back)
    return Error(EINVAL, "the disk's state is not consistent: its cache writes back, and its driver cannot flush it");
  disk_->writeback = writeback;
  return {};
}

Status Device::restore_nothing() {
  // accept_features() has been called. A driver that had chosen write-through counts on it: a flush too many costs time, one
  // too few costs data.
  if (host_->negotiated().has(feature::config_wce)) disk_->writeback = false;
  return {};
}

void Device::reset() {
  disk_->discard = false;
  disk_->write_zeroes = false;
  disk_->writeback = true;
}

Status Device::reload() {
  backend_->measure([this](const Result<std::uint64_t>& bytes) {
    const Status done = bytes ? resize(*bytes) : Status(bytes.error());
    if (!done) host_->log().error("{}; the disk is unchanged", done.error().message());
  });
  return {};
}

Status Device::resize(std::uint64_t bytes) {
  const std::uint64_t before = disk_->capacity.load(std::memory_order_relaxed) * sector_size;
  // Nobody else knows what a driver has beyond the new end.
  if (host_ != nullptr && !host_->negotiated().empty() && bytes < before)
    return Error(EBUSY, fmt::format(
                            "it has become smaller while a driver uses it: {} bytes instead of {}; to fix it: truncate "
                            "-s {}, or stop using it first",
                            bytes, before, before))
        .on(backend_->description());
  if (bytes == before) return {};
  if (host_ != nullptr)
    host_->log().warning("{}: the disk has {} bytes now, {} than before ({})", backend_->description(), bytes,
                         bytes > before ? "more" : "fewer", before);
  backend_->set_capacity(bytes);
  capacity_changed();
  return {};
}

void Device::capacity_changed() {
  disk_->refresh();
  // VIRTIO 1.4, 5.2.6.2: "When this happens, the device SHOULD trigger a configuration change notification."
  if (host_ != nullptr) host_->config_changed(offsetof(spec::Config, capacity), sizeof(le64));
}

}  // namespace outboard::blk
