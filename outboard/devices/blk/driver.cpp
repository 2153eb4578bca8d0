#include <outboard/devices/blk/driver.hpp>

#include <algorithm>
#include <array>
#include <cstring>

#include <outboard/devices/blk/internal/driver_core.hpp>

namespace outboard::blk {

namespace {

constexpr std::uint64_t bounce_size = UINT64_C(1) << 20;

/// Polling looks at the loop (timers, what the transport has to say) once in so many rounds.
constexpr unsigned polls_per_pass = 1024;

}  // namespace

Driver::Driver(std::shared_ptr<DriverCore> core) : core_(std::move(core)) {}
Driver::Driver(Driver&&) noexcept = default;
Driver& Driver::operator=(Driver&& other) noexcept {
  if (this != &other) {
    close();
    core_ = std::move(other.core_);
    bounce_ = std::move(other.bounce_);
  }
  return *this;
}
Driver::~Driver() { close(); }

void Driver::close() {
  if (core_ == nullptr) return;
  core_->shut_down();
  bounce_.reset();
  core_.reset();
}

Result<Driver> Driver::start(virtio::Transport& transport, const Options& options) {
  OUTBOARD_TRY(auto core, DriverCore::start(transport, nullptr, options));
  return Driver(std::move(core));
}

Result<Driver> Driver::start(std::unique_ptr<virtio::Transport> transport, const Options& options) {
  virtio::Transport& borrowed = *transport;
  OUTBOARD_TRY(auto core, DriverCore::start(borrowed, std::move(transport), options));
  return Driver(std::move(core));
}

std::uint64_t Driver::capacity() const { return core_->capacity() * sector_size; }
const Limits& Driver::limits() const { return core_->limits(); }
const virtio::Features& Driver::features() const { return core_->features(); }
unsigned Driver::queue_count() const { return static_cast<unsigned>(core_->queues().size()); }
Queue& Driver::queue(unsigned index) { return *core_->queues()[index]; }
memory::DmaSpace& Driver::dma() { return core_->transport().dma(); }
Loop& Driver::loop() { return core_->control(); }
unsigned Driver::recoveries() const { return core_->recoveries(); }
int Driver::fd() const { return core_->reactor() != nullptr ? core_->reactor()->fd() : -1; }

Status Driver::process() {
  if (core_->reactor() == nullptr) return Error(ENOTSUP, "the driver runs on a loop of the caller's");
  return core_->reactor()->process();
}

void Driver::stop_queues(std::move_only_function<void()> done) { core_->stop_queues(std::move(done)); }

/// Starts the operation on the first queue and pumps the driver's own loop until it has ended.
Status Driver::run(Io& io) {
  Reactor* reactor = core_->reactor();
  Queue& queue = *core_->queues()[0];
  if (reactor == nullptr || &queue.loop() != reactor)
    return Error(ENOTSUP, "the driver runs on a loop of the caller's").cure("use the asynchronous calls of its queues");
  // Before anything is started, since what is started has to be waited for.
  const bool nested = std::ranges::any_of(
      core_->queues(), [&](const auto& each) { return &each->loop() == reactor && each->delivering(); });
  if (nested) return Error(EDEADLK, "called from inside a completion");
  // EDEADLK: somewhere below us the loop runs.
  OUTBOARD_TRY(const bool did, reactor->run_once(Duration(0)));
  static_cast<void>(did);
  bool ended = false;
  io.context = &ended;
  io.done = [](Io& done) { *static_cast<bool*>(done.context) = true; };
  const bool poll = core_->options().poll;
  OUTBOARD_CHECK(queue.submit(io));
  queue.publish();
  for (unsigned round = 1; !ended; ++round) {
    if (poll && queue.poll() != 0) continue;
    if (poll && round % polls_per_pass != 0) continue;
    const auto pumped = reactor->run_once(poll ? Duration(0) : Duration(std::chrono::seconds(1)));
    if (!pumped) return pumped.error();
  }
  if (io.error != 0) return Error(io.error).on(core_->transport().name());
  return {};
}

Status Driver::transfer(Io::Kind kind, Sector sector, std::span<const virtio::Element> data) {
  Io io{.kind = kind, .sector = sector, .data = data};
  return run(io);
}

Status Driver::read(Sector sector, std::span<const virtio::Element> data) {
  return transfer(Io::Kind::read, sector, data);
}

Status Driver::write(Sector sector, std::span<const virtio::Element> data) {
  return transfer(Io::Kind::write, sector, data);
}

namespace {

/// A buffer as elements, which have 32-bit lengths.
std::vector<virtio::Element> elements_of(const memory::DmaBuffer& buffer, std::uint64_t size) {
  constexpr std::uint64_t max_element = UINT64_C(1) << 30;
  std::vector<virtio::Element> elements;
  for (std::uint64_t at = 0; at < size; at += max_element)
    elements.push_back({buffer.iova() + at, static_cast<std::uint32_t>(std::min(max_element, size - at))});
  return elements;
}

}  // namespace

Status Driver::read(Sector sector, const memory::DmaBuffer& buffer) {
  return read(sector, elements_of(buffer, buffer.size()));
}

Status Driver::write(Sector sector, const memory::DmaBuffer& buffer) {
  return write(sector, elements_of(buffer, buffer.size()));
}

Status Driver::read_bytes(Sector sector, MutableBytes into) {
  if (!bounce_) {
    OUTBOARD_TRY(bounce_, dma().allocate(bounce_size));
  }
  while (!into.empty()) {
    const std::size_t size = std::min<std::size_t>(into.size(), bounce_size);
    OUTBOARD_CHECK(read(sector, elements_of(bounce_, size)));
    copy_bytes(bounce_.bytes().first(size), into);
    into = into.subspan(size);
    sector = sector + size / sector_size;
  }
  return {};
}

Status Driver::write_bytes(Sector sector, Bytes from) {
  if (!bounce_) {
    OUTBOARD_TRY(bounce_, dma().allocate(bounce_size));
  }
  while (!from.empty()) {
    const std::size_t size = std::min<std::size_t>(from.size(), bounce_size);
    copy_bytes(from.first(size), bounce_.bytes());
    OUTBOARD_CHECK(write(sector, elements_of(bounce_, size)));
    from = from.subspan(size);
    sector = sector + size / sector_size;
  }
  return {};
}

Status Driver::flush() {
  // Without the feature every completed write is on the medium already (VIRTIO 1.4, 5.2.6.2).
  if (!limits().flush) return {};
  Io io{.kind = Io::Kind::flush};
  return run(io);
}

Status Driver::discard(Sector sector, std::uint64_t sectors) {
  Io io{.kind = Io::Kind::discard, .sector = sector, .sectors = sectors};
  return run(io);
}

Status Driver::write_zeroes(Sector sector, std::uint64_t sectors, bool unmap) {
  Io io{.kind = Io::Kind::write_zeroes, .unmap = unmap, .sector = sector, .sectors = sectors};
  return run(io);
}

Result<std::string> Driver::id() {
  std::array<char, spec::id_size> id{};
  Io io{.kind = Io::Kind::get_id, .id = &id};
  OUTBOARD_CHECK(run(io));
  return std::string(id.begin(), std::ranges::find(id, '\0'));
}

}  // namespace outboard::blk
