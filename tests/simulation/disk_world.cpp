#include <tests/simulation/disk_world.hpp>

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>

#include <outboard/devices/blk/device.hpp>
#include <outboard/devices/blk/driver.hpp>
#include <outboard/vfio_user/client.hpp>
#include <outboard/vfio_user/server.hpp>
#include <outboard/virtio_pci/function.hpp>
#include <outboard/virtio_pci/transport.hpp>

namespace outboard::testing {
namespace {

constexpr std::uint64_t sectors = 64;
constexpr std::size_t max_sectors = 8;

/// How often something was decided by which a connection may end.
std::uint32_t causes_of_an_end(const Schedule& schedule) {
  return schedule.count(Choice::kill) + schedule.count(Choice::disconnect) + schedule.count(Choice::no_descriptor) +
         schedule.count(Choice::no_memory);
}

UniqueFd listen_at(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return {};
  std::ranges::copy(path, address.sun_path);
  const bool bound = ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  return bound && ::listen(socket.get(), 8) == 0 ? std::move(socket) : UniqueFd();
}

}  // namespace

/// One read, write or flush. Lives until it has ended, or its driver has.
class DiskWorld::Operation {
 public:
  Operation(DiskWorld& world, memory::DmaBuffer buffer) : world_(world), buffer_(std::move(buffer)) {}

  bool idle() const { return !running_; }

  void start(Process& process, blk::Queue& queue);

 private:
  void ended();
  bool choose_sectors();
  std::string name() const;

  DiskWorld& world_;
  memory::DmaBuffer buffer_;
  blk::Io io_;
  std::array<virtio::Element, 1> element_{};
  std::uint64_t sector_ = 0;
  std::size_t count_ = 0;
  std::uint64_t write_ = 0, flush_ = 0;
  bool running_ = false;
};

std::string DiskWorld::Operation::name() const {
  if (io_.kind == blk::Io::Kind::flush) return "flush " + std::to_string(flush_);
  const bool writes = io_.kind == blk::Io::Kind::write;
  return (writes ? "write " + std::to_string(write_) : std::string("read")) + " of sectors " + std::to_string(sector_) +
         " to " + std::to_string(sector_ + count_ - 1);
}

bool DiskWorld::Operation::choose_sectors() {
  // Not decisions: what a driver does is its own affair, and the same in every schedule.
  const std::uint64_t mixed = (world_.done_ + world_.writes_.size() * 7 + 1) * UINT64_C(0x9e3779b97f4a7c15);
  count_ = 1 + (mixed >> 40) % max_sectors;
  for (std::uint64_t attempt = 0; attempt < sectors; ++attempt) {
    sector_ = ((mixed >> 20) + attempt) % (sectors - max_sectors);
    if (world_.oracle_.quiet(sector_, count_)) return true;
  }
  return false;
}

void DiskWorld::Operation::start(Process& process, blk::Queue& queue) {
  if (!choose_sectors()) return;
  const std::size_t size = count_ * DiskOracle::sector_size;
  const std::uint64_t kind = world_.done_ * 5 + world_.writes_.size();
  element_[0] = {buffer_.iova(), static_cast<std::uint32_t>(size)};
  io_ = blk::Io{};
  io_.context = this;
  io_.done = [](blk::Io& io) { static_cast<Operation*>(io.context)->ended(); };
  if (kind % 7 == 6) {
    io_.kind = blk::Io::Kind::flush;
  } else {
    io_.sector = blk::Sector(sector_);
    io_.data = element_;
    io_.kind = kind % 3 == 0 ? blk::Io::Kind::read : blk::Io::Kind::write;
  }
  if (io_.kind == blk::Io::Kind::write) {
    write_ = world_.oracle_.begin_write(sector_, buffer_.bytes().first(size));
    world_.writes_.push_back(write_);
  } else if (io_.kind == blk::Io::Kind::flush) {
    flush_ = world_.oracle_.begin_flush();
  } else {
    std::ranges::fill(buffer_.bytes().first(size), std::byte{0x5a});
  }
  running_ = true;
  world_.simulation_.note("begins: " + name());
  if (const auto submitted = queue.submit(io_); !submitted) {
    io_.error = submitted.error().code();
    ended();
    process.require(io_.error == ENODEV, "submitting: " + submitted.error().message());
  }
}

void DiskWorld::Operation::ended() {
  if (!std::exchange(running_, false)) world_.simulation_.fail("an operation was answered twice");
  world_.simulation_.note("ended with " + std::to_string(io_.error) + ": " + name());
  const bool succeeded = io_.error == 0;
  world_.given_up_ |= io_.error == ENODEV;
  const bool explained = succeeded || io_.error == ENODEV || io_.error == ECANCELED || world_.options_.disk_fails;
  if (!explained) world_.simulation_.fail("an operation has failed without a cause: " + Error(io_.error).what());
  ++world_.ended_;
  if (succeeded) ++world_.done_;
  if (io_.kind == blk::Io::Kind::write) {
    std::erase(world_.writes_, write_);
    world_.oracle_.end_write(write_, succeeded ? DiskOracle::Outcome::done : DiskOracle::Outcome::unknown);
  } else if (io_.kind == blk::Io::Kind::flush) {
    if (succeeded) world_.oracle_.end_flush(flush_);
  } else if (succeeded && world_.oracle_.quiet(sector_, count_)) {
    const auto wrong = world_.oracle_.check_read(sector_, buffer_.bytes().first(count_ * DiskOracle::sector_size));
    if (wrong) world_.simulation_.fail(*wrong);
  }
}

DiskWorld::DiskWorld(Simulation& simulation, Options options)
    : simulation_(simulation),
      options_(options),
      listener_(listen_at(folder_.path("s"))),
      disk_(simulation, {.capacity = sectors * DiskOracle::sector_size, .fails = options.disk_fails}) {
  simulation.add_process("server", Simulation::Role::server, options_.server, [this](Process& self) { serve(self); });
  simulation.add_process("driver", Simulation::Role::worker, options_.driver, [this](Process& self) { drive(self); });
}

void DiskWorld::serve(Process& process) {
  const auto make_disk = [this](Loop& loop, const Log&) -> Result<std::unique_ptr<virtio::Device>> {
    OUTBOARD_TRY(auto backend, disk_.open(loop));
    OUTBOARD_TRY(auto device, blk::Device::create(std::move(backend), {.queue_size = 16}));
    return std::unique_ptr<virtio::Device>(std::move(device));
  };
  if (servers_++ != 0 && options_.loses_power) {
    disk_.lose_power();
    oracle_.power_lost();
  }
  while (true) {
    // What the last server has submitted may still be carried out, and descriptors may have run out.
    if (auto socket = listener_.duplicate()) {
      auto server = vfio_user::Server::adopt(
          std::move(*socket), virtio_pci::Function::factory(make_disk, {.core = {.packed = options_.packed}}),
          {.loop = &process.loop(), .log = Log()});
      if (server) process.run();
    }
    process.run_for(std::chrono::milliseconds(10), [] { return false; });
  }
}

void DiskWorld::forget_operations() {
  for (const std::uint64_t write : std::exchange(writes_, {})) oracle_.end_write(write, DiskOracle::Outcome::unknown);
}

void DiskWorld::drive(Process& process) {
  constexpr auto pause = std::chrono::milliseconds(10);
  const auto never = [] { return false; };
  while (done_ < options_.operations) {
    process.run_for(pause, never);
    forget_operations();
    given_up_ = false;
    const std::uint32_t short_sends = simulation_.schedule().count(Choice::short_send);
    const std::uint32_t causes = causes_of_an_end(simulation_.schedule());
    const auto check = [&](const Error& error, const char* what) {
      // The server may be starting, or wait for the storage to let go of the last client's memory.
      const bool busy = error.code() == EBUSY || error.code() == ETIMEDOUT;
      // That it is busy is said only to a client whose socket takes it at once.
      const bool refused =
          error.code() == ECONNRESET && simulation_.schedule().count(Choice::short_send) != short_sends;
      const bool explained = busy || refused || causes_of_an_end(simulation_.schedule()) != causes;
      // Not its message, which has the path of the socket.
      process.require(explained, std::string(what) + ": " + Error(error.code()).what());
    };
    auto client = vfio_user::Client::connect(folder_.path("s"));
    if (!client) {
      check(client.error(), "connecting");
      continue;
    }
    auto transport = virtio_pci::Transport::open(
        **client, {.clock = &simulation_.clock(), .wait = [&](Duration time) { process.pause(time); }});
    if (!transport) {
      check(transport.error(), "opening the transport");
      continue;
    }
    std::vector<std::unique_ptr<Operation>> operations;  // outlives the driver, which ends them
    auto driver = blk::Driver::start(std::move(*transport), {.packed = options_.packed,
                                                             .event_idx = options_.event_idx,
                                                             .loop = &process.loop(),
                                                             .timeout = Duration::zero()});
    if (!driver) {
      check(driver.error(), "starting the driver");
      continue;
    }
    for (unsigned i = 0; i < options_.depth; ++i) {
      auto buffer = driver->dma().allocate(max_sectors * DiskOracle::sector_size);
      if (buffer) operations.push_back(std::make_unique<Operation>(*this, std::move(*buffer)));
    }
    const auto busy = [&] { return std::ranges::any_of(operations, [](const auto& one) { return !one->idle(); }); };
    while (!operations.empty() && !given_up_ && (done_ < options_.operations || busy())) {
      for (const auto& one : operations) {
        if (one->idle() && done_ < options_.operations) one->start(process, driver->queue(0));
      }
      driver->queue(0).publish();
      const unsigned before = ended_;
      const bool late = process.run_for(std::chrono::minutes(5), [&] { return given_up_ || ended_ != before; });
      process.require(!late, "no operation has ended for five minutes");
    }
    if ((*client)->gone()) {
      process.require(causes_of_an_end(simulation_.schedule()) != causes, "the connection has ended without a cause");
    }
  }
}

std::optional<std::string> run_disk_world(Simulation& simulation, const DiskWorld::Options& options) {
  DiskWorld world(simulation, options);
  return simulation.run();
}

std::optional<std::string> run_some_disk_world(Simulation& simulation) {
  const auto flag = [&] { return simulation.choose(Choice::setup, 2) != 0; };
  return run_disk_world(simulation,
                        {.packed = flag(), .event_idx = !flag(), .disk_fails = flag(), .loses_power = flag()});
}

}  // namespace outboard::testing
