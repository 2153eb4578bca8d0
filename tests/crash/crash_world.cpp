#include <tests/crash/crash_world.hpp>

#include <bit>
#include <fstream>
#include <stdexcept>

#include <outboard/memory/internal/shared.hpp>

namespace outboard::virtio::crash {

namespace {

std::function<void()> hook;

void before_store(const void*) {
  if (!hook) return;
  auto mine = std::exchange(hook, nullptr);
  mine();
  hook = std::move(mine);
}

[[noreturn]] void device_wrong(const std::string& what) { throw std::runtime_error("the device: " + what); }

}  // namespace

Tracing::Tracing(std::function<void()> before) : outer_(std::exchange(hook, std::move(before))) {
  memory::store_tracer = &before_store;
}
Tracing::~Tracing() { hook = std::move(outer_); }

std::vector<std::byte> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  std::vector<std::byte> bytes(static_cast<std::size_t>(file.tellg()));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!file) throw std::runtime_error("reading " + path);
  return bytes;
}

void write_file(const std::string& path, Bytes bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw std::runtime_error("writing " + path);
}

journal::File::Shape World::shape_of(const Config& config) {
  const testing::DeviceRig probe(
      {.packed = config.packed, .size = config.size, .options = {.in_order = config.in_order}});
  return {.instance = std::vector<std::byte>(16, std::byte{7}),
          .device_id = 63,
          .offered = probe.core->offered(),
          .queue_sizes = {std::bit_ceil(config.size)},
          .config_size = 8};
}

World::World(const Config& config, std::string journal)
    : config_(config), path_(std::move(journal)), shape_(shape_of(config)), driver_(config, memory_.data()) {
  auto made = journal::File::create(path_, shape_);
  if (!made) device_wrong(made.error().message());
  journal_ = std::move(*made);
  make_rig();
}

World::World(const Config& config, std::string journal, const CrashDriver& driver, const Image& image)
    : config_(config),
      path_(std::move(journal)),
      shape_(shape_of(config)),
      memory_(image.memory),
      driver_(driver.on(memory_.data())),
      seen_(image.seen) {
  write_file(path_, image.journal);
  auto opened = journal::File::open(path_, shape_);
  if (!opened) device_wrong(opened.error().message());
  journal_ = std::move(*opened);
  make_rig();
}

World::~World() {
  const Tracing none(nullptr);
  kept_.clear();
  rig_.reset();
}

void World::make_rig() {
  rig_ = std::make_unique<testing::DeviceRig>(
      testing::DeviceRig::Setup{.packed = config_.packed,
                                .size = config_.size,
                                .options = {.in_order = config_.in_order, .journal = journal_.get()}});
  rig_->device.on_request = [this](Request request) { handle(std::move(request)); };
  rig_->device.on_stop = [this](StopMode) { kept_.clear(); };
  if (!rig_->map.map(memory_.mapping())) device_wrong("its memory could not be mapped");
}

Image World::image() const { return {memory_.copy(), read_file(path_), seen_}; }

void World::handle(Request request) {
  const std::uint32_t number = request.read<le32>().value();
  if (seen_.contains(number) && !request.replayed())
    device_wrong("request " + std::to_string(number) + " comes as a new one");
  if (number <= last_) device_wrong("request " + std::to_string(number) + " comes after " + std::to_string(last_));
  last_ = number;
  seen_.insert(number);
  kept_.push_back({std::move(request), number});
}

/// What a driver would have come to that has used the ring for a while.
DeviceState World::state_from_elsewhere() const {
  QueueState queue{.size = config_.size,
                   .descriptors = driver_.address(0),
                   .driver = driver_.address(1),
                   .device = driver_.address(2),
                   .enabled = true,
                   .next_avail = config_.first,
                   .next_used = config_.first,
                   .in_flight = {}};
  return {.device_id = 63, .status = 0xf, .accepted = shape_.offered, .queues = {std::move(queue)}, .device = {}};
}

void World::set_up() {
  if (config_.first != 0) {
    if (const Status restored = rig_->core->restore(state_from_elsewhere()); !restored)
      device_wrong(restored.error().message());
    return;
  }
  rig_->negotiate();
  rig_->core->set_queue_size(0, config_.size);
  for (unsigned area = 0; area < ring_parts; ++area) rig_->core->set_queue_address(0, area, driver_.address(area));
  rig_->core->enable_queue(0);
  rig_->driver_ok();
  if (rig_->core->status() != 0xf) device_wrong("it does not come to DRIVER_OK");
}

void World::start() {
  set_up();
  rig_->settle();
}

void World::take_over() {
  auto state = journal_->recover(rig_->map);
  if (!state) device_wrong(state.error().message());
  if ((state->status & spec::status::driver_ok) == 0) {
    // Nothing can be in flight. The transport hears again of what was not acknowledged.
    rig_->core->write_status(0);
    return start();
  }
  if (const Status restored = rig_->core->restore(*state); !restored) device_wrong(restored.error().message());
  rig_->settle();
}

void World::reset() {
  rig_->core->write_status(0);
  rig_->settle();
  driver_.restart();
  last_ = -1;
  seen_.clear();
  start();
}

void World::pause() {
  std::optional<QueueState> state;
  rig_->core->stop_queue(0, StopMode::drain, [&](Result<QueueState> stopped) { state = std::move(*stopped); });
  rig_->settle();
  if (!state) device_wrong("it does not come to rest");
  last_ = -1;
  if (const Status started = rig_->core->start_queue(0, *state); !started) device_wrong(started.error().message());
  rig_->settle();
}

void World::answer(std::size_t count, std::mt19937_64& rng) {
  for (; count != 0 && !kept_.empty(); --count) {
    const auto which = kept_.begin() + static_cast<std::ptrdiff_t>(rng() % kept_.size());
    const le64 answer = answer_to(which->number);
    const auto bytes = as_bytes_of(answer).first(answer_length(which->number));
    if (!which->request.write_bytes(bytes)) device_wrong("an answer could not be written");
    which->request.complete();
    kept_.erase(which);
  }
  rig_->settle();
}

void World::finish(std::mt19937_64& rng) {
  for (unsigned turn = 0; driver_.outstanding() != 0; ++turn) {
    if (turn == 1000) device_wrong(std::to_string(driver_.outstanding()) + " requests are never answered");
    process();
    answer(1 + rng() % 3, rng);
    driver_.take();
  }
  if (rig_->core->broken()) device_wrong("it is broken: " + (rig_->log.empty() ? std::string() : rig_->log.back()));
}

}  // namespace outboard::virtio::crash
