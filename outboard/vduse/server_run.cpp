#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include <outboard/base/internal/thread.hpp>
#include <outboard/vduse/internal/server_state.hpp>
#include <outboard/virtio/spec.hpp>

/// How a server puts its device on the bus, and takes it off.
namespace outboard::vduse {

namespace {

constexpr Duration look_again = std::chrono::milliseconds(200);

struct DriverWait {
  BusDriver driver;
  Duration timeout;
  Duration quiet;  ///< without anything that might load a driver
  std::string udev_queue;  ///< a file that is there while udev has something to do
};

/// The bus says that a probe has ended, and not how.
Status wait_for_driver(const Bus& bus, const std::string& name, const DriverWait& wait,
                       const std::atomic<std::uint8_t>& seen_status) {
  const TimePoint end = Clock::system().now() + wait.timeout;
  TimePoint quiet_end = Clock::system().now() + wait.quiet;
  std::optional<BusChild> child;
  while (true) {
    child = bus.child(name);
    if (child && (wait.driver == BusDriver::vhost || child->bound)) return {};
    const TimePoint now = Clock::system().now();
    const std::uint8_t seen = seen_status.load();
    if (now >= end || (child && (seen & virtio::spec::status::failed) != 0)) break;
    // A driver has begun, or udev is about to load one.
    const bool busy = (seen & virtio::spec::status::driver) != 0 || ::access(wait.udev_queue.c_str(), F_OK) == 0;
    if (busy) quiet_end = now + wait.quiet;
    if (now >= quiet_end) break;
    std::this_thread::sleep_for(look_again / 10);
  }
  if (!child) return Error(ENODEV, "no driver of the bus has taken the device").cure("modprobe virtio_vdpa");
  if ((seen_status.load() & virtio::spec::status::failed) != 0)
    return Error(EIO, "the driver has given the device up").cure("the kernel's log (dmesg) says why");
  return Error(ENODEV, fmt::format("no driver of the kernel has taken {}", child->name))
      .cure("load the driver of this device type, for a disk: modprobe virtio_blk");
}

}  // namespace

/// The kernel answers when a driver's whole probe or removal has ended, for which it needs this server: so never here.
void Server::State::in_background(std::function<Status(Bus&)> work, std::function<void(Status)> then) {
  if (background.joinable()) background.join();
  working = true;
  const auto within = std::make_shared<Reach>();
  within->loop = own.get();
  within->log = log;
  reach = within;
  auto places = bus.options();
  places.log = Log(
      [within](Level level, std::string_view line) {
        const std::lock_guard held(within->mutex);
        if (within->loop != nullptr) within->log.write(level, line);
      },
      Level::debug);
  auto thread =
      start_thread("the bus", [this, within, its_bus = Bus(std::move(places)), work = std::move(work), then]() mutable {
        Status done = work(its_bus);
        const std::lock_guard held(within->mutex);
        if (within->loop == nullptr) return;
        within->loop->post([this, then = std::move(then), done = std::move(done)]() mutable {
          working = false;
          then(std::move(done));
        });
      });
  if (thread) {
    background = std::move(*thread);
    return;
  }
  own->post([this, then = std::move(then), error = thread.error()] {
    working = false;
    then(error);
  });
}

/// It may be in the kernel, which does not let it go: the process ends when that does.
void Server::State::let_background_go() {
  if (!background.joinable()) return;
  {
    const std::lock_guard held(reach->mutex);
    reach->loop = nullptr;
  }
  if (std::exchange(working, false)) {
    background.detach();
  } else {
    background.join();
  }
}

Status Server::State::run(std::function<Status()> ready_) {
  become_io_flusher();
  ready = std::move(ready_);
  OUTBOARD_TRY(stop_watch, own->watch(stop_event.get(), Ready::readable, [this](Ready) {
    stop_watch.reset();
    end(std::nullopt);
  }));
  own->post([this] {
    if (finished || ending) return;
    // Also on the bus without a driver: where a server was killed while it attached it.
    if (options.attach && (!bus.attached(options.name) || bus.undriven(options.name))) return attach();
    be_ready();
  });
  OUTBOARD_CHECK(own->run());
  if (failure) return *failure;
  return {};
}

void Server::State::be_ready() {
  const Status told = std::exchange(ready, [] { return Status(); })();
  if (!told) end(told.error());
}

// On.

void Server::State::attach() {
  *seen_status = 0;
  timer = own->after(options.slow_attach, [this] {
    log.warning(
        "attaching takes long; the driver has written status bits {:#04x} so far. Do not kill the process that waits for it",
        seen_status->load());
  });
  in_background(
      [name = options.name, seen = seen_status,
       wait = DriverWait{options.driver, options.driver_timeout, options.driver_quiet, options.udev + "/queue"}](
          Bus& its_bus) -> Status {
        OUTBOARD_CHECK(its_bus.attach(name, wait.driver));
        return wait_for_driver(its_bus, name, wait, *seen);
      },
      [this](Status done) { attached(std::move(done)); });
}

void Server::State::attached(Status done) {
  timer.reset();
  if (!done) return end(Error(done.error()).while_doing("attaching the device"));
  if (ending) return end_when_unused();
  be_ready();
}

// Off.

void Server::State::end(std::optional<Error> why) {
  if (why && !failure) failure = std::move(why);
  if (ending && !failure) return;
  ending = true;
  // A probe or removal that is under way is waited for; attached() or detached() go on from here.
  if (!working) end_when_unused();
}

/// A disk that is taken away below a filesystem loses what has not been written to it.
void Server::State::end_when_unused() {
  timer.reset();
  if (!bus.attached(options.name)) return close(true);
  // Looking at every process's descriptors takes its time, and what opening the disk asks of it this server has to answer.
  const auto users = std::make_shared<std::string>();
  in_background(
      [name = options.name, users](Bus& its_bus) -> Status {
        const auto child = its_bus.child(name);
        Result<UniqueFd> claim;
        if (child && child->driver == BusDriver::virtio && !child->made.empty()) {
          claim = its_bus.claim_unused(child->made);
          if (!claim && claim.error().code() != EBUSY)
            return Error(claim.error()).while_doing("seeing whether it is used");
          if (!claim) *users = fmt::format("{} is still used by {}", child->made, claim.error().what());
          if (!claim) return {};
        }
        return its_bus.detach(name);
      },
      [this, users](const Status& done) { users->empty() ? detached(done) : wait_for_users(*users); });
}

void Server::State::wait_for_users(const std::string& users) {
  if (std::exchange(told_users, users) != users)
    log.warning(
        "{}: waiting for that to end; a second signal ends the server at once, and leaves the device to its next one",
        users);
  timer = own->after(look_again, [this] { end_when_unused(); });
}

void Server::State::detached(const Status& done) {
  if (done || done.error().code() == ENODEV) return close(true);
  // Somebody else attached it, or is to detach it: the device lives on, and its next server takes it over.
  log.error("{}; the device is left to live, and its next server takes it over", done.error().message());
  if (!failure) failure = done.error();
  close(false);
}

void Server::State::close(bool remove) {
  exported->shut_down([this, remove](const Status& stopped) {
    if (!stopped) log.error("{}", stopped.error().message());
    if (remove) {
      auto control = options.open_control(options.device.api_version);
      const Status removed = control ? destroy(*control) : Status(std::unexpected(control.error()));
      if (removed) {
        if (journal) [[maybe_unused]]
          const auto gone = journal->remove();
      } else {
        log.warning("{}; the idle device stays; to remove it, as root: outboard vduse remove {}",
                    removed.error().message(), options.name);
      }
    }
    finish();
  });
}

/// The kernel has broken with us; what is in flight waits for ever, and so would we if we tried to detach.
void Server::State::given_up(const Error& why) {
  if (!failure)
    failure = Error(why)
                  .on("vduse:" + options.name)
                  .cure(fmt::format("outboard vduse remove {}, and start the server again", options.name));
  finish();
}

void Server::State::finish() {
  finished = true;
  timer.reset();
  stop_watch.reset();
  own->stop();
}

}  // namespace outboard::vduse
