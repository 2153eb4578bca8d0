#include <outboard/devices/example/device.hpp>

#include <bit>
#include <charconv>
#include <fstream>

#include <fmt/format.h>

#include <outboard/devices/example/internal/device_events.hpp>

namespace outboard::example {

namespace {

constexpr std::uint16_t min_queue_size = 4;

/// A limit in decimal, perhaps with white space behind it.
Result<std::uint32_t> read_limit(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  if (!(file >> word)) return Error(file.is_open() ? EINVAL : ENOENT, "no limit can be read").on(path);
  std::uint32_t limit = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), limit);
  if (error != std::errc() || end != word.data() + word.size())
    return Error(EINVAL, fmt::format("'{}' is not a limit", word)).on(path).cure("a number between 0 and 4294967295");
  return limit;
}

}  // namespace

Result<std::unique_ptr<Device>> Device::create(const Options& options) {
  if (!std::has_single_bit(options.queue_size) || options.queue_size < min_queue_size || options.queue_size > 32768)
    return Error(EINVAL,
                 fmt::format("queue-size is {}: it must be a power of two between 4 and 32768", options.queue_size));
  if (options.limit && !options.limit_file.empty())
    return Error(EINVAL, "limit and limit-file are mutually exclusive").cure("leave one of them out");
  std::uint32_t limit = options.limit.value_or(0);
  if (!options.limit_file.empty()) {
    OUTBOARD_TRY(limit, read_limit(options.limit_file));
  }
  return std::unique_ptr<Device>(new Device(options, limit));
}

Device::Device(const Options& options, std::uint32_t limit)
    : options_(options), limit_(limit), events_(std::make_shared<Events>()) {}

Device::~Device() = default;

virtio::Identity Device::identity() const {
  virtio::Identity identity{.device_id = device_id, .queue_sizes = {options_.queue_size}};
  if (has_limit()) {
    identity.features.set(feature::limit);
    identity.queue_sizes.push_back(options_.queue_size);
    identity.config_size = sizeof(spec::Config);
  }
  return identity;
}

std::string Device::description() const { return has_limit() ? fmt::format("up to {}", limit()) : std::string(); }

Status Device::attach(virtio::Host& host) {
  host_ = &host;
  return {};
}

void Device::read_config(std::uint32_t offset, MutableBytes into) {
  const spec::Config config{.limit = limit(), .reserved = 0, .epoch = epoch_};
  const Bytes bytes = as_bytes_of(config);
  if (range_within(offset, into.size(), bytes.size())) copy_bytes(bytes.subspan(offset, into.size()), into);
}

/// D-EX-8: "The device MUST change limit and epoch together, as one change of the configuration, and, if DRIVER_OK is set,
/// MUST send a configuration change notification afterwards."
Status Device::set_limit(std::uint32_t limit) {
  if (!has_limit()) return Error(ENOTSUP, "this device was made without a limit");
  if (limit == limit_.load(std::memory_order_relaxed)) return {};
  limit_.store(limit, std::memory_order_relaxed);
  ++epoch_;
  if (host_ != nullptr) host_->config_changed(0, sizeof(spec::Config));
  return {};
}

Status Device::reload() {
  if (options_.limit_file.empty()) return {};
  OUTBOARD_TRY(const std::uint32_t limit, read_limit(options_.limit_file));
  return set_limit(limit);
}

Status Device::start_queue(unsigned queue, const virtio::QueueState& /*state*/) {
  // Each start asks: what one driver has accepted says nothing about the next.
  limited_.store(host_->negotiated().has(feature::limit), std::memory_order_relaxed);
  if (queue == event_queue) events_->open(host_->queue_loop(queue));
  return {};
}

void Device::stop_queue(unsigned queue, virtio::StopMode mode, Completion done) {
  if (queue != event_queue) return done();
  Loop& control = host_->control_loop();
  host_->queue_loop(queue).post([events = events_, mode, &control, done = std::move(done)]() mutable {
    events->close(mode == virtio::StopMode::drain);
    control.post(std::move(done));
  });
}

void Device::handle(virtio::Request request) {
  const bool limited = limited_.load(std::memory_order_relaxed);
  if (request.queue_index() == event_queue) {
    // R-EX-6: "The driver MUST NOT enable eventq unless LIMIT was negotiated."
    if (!limited) return request.violation("R-EX-6", "a buffer in eventq without LIMIT");
    return events_->take(std::move(request));
  }
  // D-EX-6: "If a buffer of requestq has fewer than 4 device-readable bytes, or fewer device-writable bytes than the reply
  // has, the device MUST set DEVICE_NEEDS_RESET, and MUST NOT use the buffer or write to it."
  const auto value = request.read<spec::Request>();
  if (!value) return request.violation(value.error());
  if (request.writable_size() < spec::reply_size(limited))
    return request.violation("D-EX-6", "the buffer has no room for the reply");
  if (options_.break_on == std::uint32_t{value->value})
    return request.violation("break-on", "the value that breaks the device");
  const spec::Reply reply = answer(value->value, limited);
  if (auto written = request.write_bytes(as_bytes_of(reply).first(spec::reply_size(limited))); !written)
    return request.violation(written.error());
  request.complete();
}

spec::Reply Device::answer(std::uint32_t value, bool limited) {
  // D-EX-7: "If LIMIT was negotiated and value is larger than limit, the device MUST set status to RANGE and result to
  // value, MUST use the buffer, and MUST NOT set DEVICE_NEEDS_RESET because of it."
  if (limited && value > limit()) {
    events_->hit(value);
    return {.result = value, .status = spec::status::range};
  }
  // D-EX-1: "If a number is not refused, the device MUST set result to value + 1 modulo 2^32, little-endian ..."
  return {.result = value + 1, .status = spec::status::ok};
}

/// D-EX-12: "Upon reset the device MUST set the number of missed events to 0, and MUST NOT change limit and epoch."
void Device::reset() { events_->clear(); }

Result<std::vector<std::byte>> Device::save_state() {
  const spec::State state{
      .version = spec::State::version_1, .limit = limit(), .epoch = epoch_, .missed = events_->missed(), .reserved = 0};
  const Bytes bytes = as_bytes_of(state);
  return std::vector<std::byte>(bytes.begin(), bytes.end());
}

/// D-EX-13: "A device MUST refuse a captured state that it does not understand or that is not consistent in itself, and MUST
/// be unchanged then."
Status Device::restore_state(Bytes from) {
  ByteReader reader(from);
  OUTBOARD_TRY(const auto state, reader.read<spec::State>());
  if (reader.remaining() != 0) return Error(EINVAL, "bytes are left").on("the example device's state");
  if (state.version != spec::State::version_1)
    return Error(EINVAL, fmt::format("version {} is not known", std::uint32_t{state.version}))
        .on("the example device's state");
  if (state.reserved != 0) return Error(EINVAL, "its reserved field is not 0").on("the example device's state");
  limit_.store(state.limit, std::memory_order_relaxed);
  epoch_ = state.epoch;
  events_->set_missed(state.missed);
  return {};
}

}  // namespace outboard::example
