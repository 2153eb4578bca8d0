#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include <outboard/base/endian.hpp>
#include <outboard/base/internal/file_birth.hpp>
#include <outboard/base/internal/wait.hpp>
#include <outboard/vduse/internal/bus_remove.hpp>
#include <outboard/vduse/internal/server_state.hpp>
#include <outboard/vduse/internal/stale_server.hpp>

/// How a server comes to its device: it makes one, or takes one over.
namespace outboard::vduse {

namespace {

constexpr Duration timeout = std::chrono::seconds(5);
constexpr Duration pause = std::chrono::milliseconds(20);
/// The kernel stores DRIVER_OK when the thread that waits for its answer runs again, which takes milliseconds.
constexpr Duration driver_ok_timeout = std::chrono::seconds(1);

/// In the journal, beside what the core writes: of which API version the device is, and where its groups work.
struct TransportHeader {
  le32 version{1};
  le32 api_version;
  le32 groups;
};
constexpr std::uint32_t max_groups = 200;  // journal::File::max_transport

/// A file's identity for good: another node of the same name is another device.
struct NodeIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t born_seconds = 0;
  std::uint64_t born_nanoseconds = 0;
};

Result<NodeIdentity> identity_of(const std::string& path) {
  const auto birth = birth_of(path);
  if (!birth) return Error(birth.error()).on(path);
  return NodeIdentity{.device = birth->device,
                      .inode = birth->inode,
                      .born_seconds = birth->born_seconds,
                      .born_nanoseconds = birth->born_nanoseconds};
}

bool wait_a_little(const TimePoint& end) {
  if (Clock::system().now() >= end) return false;
  std::this_thread::sleep_for(pause);
  return true;
}

/// What to do about requests in flight of a device that could not be taken over because of error `code`.
std::string_view how_to_finish_requests(int code) {
  switch (code) {
    case ESTALE:
    case EDEADLK:
      return "to finish them, start the server with the storage that the device had, and end it with SIGTERM";
    case EINVAL:
      return "to finish them, start the server with the options of the previous server, and end it with SIGTERM";
    default:
      return "they cannot be answered any more; only a reboot of this machine ends them";
  }
}

}  // namespace

Server::State::State(Options given)
    : options(std::move(given)), log(options.log), bus([this] {
        auto bus_options = options.bus;
        bus_options.run = options.run;
        bus_options.log = options.log;
        return bus_options;
      }()) {
  if (options.journal.empty()) options.journal = journal_path(options.run, options.name);
  if (!options.open_control)
    options.open_control = [this](std::uint64_t version) { return Control::open(version, options.folder); };
  if (!options.open_node) {
    options.open_node = [this](const std::string& name) {
      return open_node(name, options.device.api_version, options.folder);
    };
  }
}

Server::State::~State() { forget_device(); }

bool Server::State::exists() const {
  return ::access(fmt::format("{}/{}", options.folder, options.name).c_str(), F_OK) == 0;
}

Status Server::State::prepare(DeviceFactory& factory) {
  OUTBOARD_CHECK(check_name(options.name));
  if (options.take_lock) {
    OUTBOARD_CHECK(make_run_folder(options.run));
    OUTBOARD_TRY(lock, lock_name(lock_path(options.run, options.name), options.lock_timeout, log));
  }
  if (!options.take_lock && !exists())
    return Error(ENOENT, "there is no such device; it has to be created before its node is handed over")
        .on("vduse:" + options.name)
        .cure(fmt::format("outboard vduse create TYPE {} ...", options.name));
  OUTBOARD_TRY(stop_event, EventFd::create());
  become_io_flusher();
  if (options.replace && exists()) OUTBOARD_CHECK(clear_away(factory));
  OUTBOARD_CHECK(make_device(factory));
  const Status begun = !exists() ? begin_fresh() : bus.attached(options.name) ? take_over() : begin_again();
  if (!begun) return about_this_device(begun.error());
  return {};
}

/// With the name of the device in front, and what the error is about after it.
Error Server::State::about_this_device(const Error& error) const {
  const std::string name = "vduse:" + options.name;
  const bool other = !error.subject().empty() && error.subject() != options.name && error.subject() != name;
  return Error(error.code(), other ? error.message() : error.what()).on(name).cure(error.cure());
}

Status Server::State::make_device(DeviceFactory& factory) {
  const Reactor::Options reactor{.clock = nullptr, .spin = options.spin};
  OUTBOARD_TRY(own, Reactor::create(reactor));
  OUTBOARD_TRY(pool, ReactorPool::create(options.threads, options.name, reactor, log));
  OUTBOARD_TRY(auto device, factory(*own, log));
  options.device.core.queue_loops = pool->loops(device->identity().queue_sizes.size());
  options.device.log = log;
  OUTBOARD_TRY(exported, Export::create(std::move(device), *own, options.device));
  exported->set_events({.status = [this](std::uint8_t status) { *seen_status |= status; },
                        .gone = [this](const Error& why) { given_up(why); },
                        .config =
                            [this](Bytes now) {
                              config.assign(now.begin(), now.end());
                              if (!journal) return;
                              [[maybe_unused]] const auto noted = journal->set_config(config);
                              // A disk that has grown must not become smaller for the next server.
                              if (!config.empty()) [[maybe_unused]]
                                const auto stored = note_storage();
                            },
                        .groups =
                            [this](const auto& now) {
                              spaces = now;
                              if (journal) [[maybe_unused]]
                                const auto noted = journal->set_transport(transport_area(spaces));
                            }});
  return {};
}

/// There is no device of this name: it is made, and removed again if that fails half-way.
Status Server::State::begin_fresh() {
  OUTBOARD_TRY(auto control, options.open_control(options.device.api_version));
  OUTBOARD_CHECK(control.create(exported->shape(options.name)));
  const auto go_on = [&]() -> Status {
    const TimePoint end = Clock::system().now() + timeout;
    OUTBOARD_CHECK(wait_for_node(options.name, [&] { return wait_a_little(end); }, options.folder));
    OUTBOARD_TRY(auto node, options.open_node(options.name));
    OUTBOARD_CHECK(make_journal());
    return exported->start(std::move(node));
  };
  const Status done = go_on();
  if (done) return done;
  if (journal) [[maybe_unused]]
    const auto removed = journal->remove();
  exported.reset();
  if (const Status removed = destroy(control); !removed) log.error("{}", removed.error().message());
  return done;
}

Status Server::State::destroy(Control& control) const {
  const TimePoint end = Clock::system().now() + timeout;
  return control.destroy_with_retry(options.name, [&] { return wait_a_little(end); });
}

/// Somebody has made the device for us, or a server died before anything was attached: nothing can be in flight.
Status Server::State::begin_again() {
  OUTBOARD_TRY(auto node, open_with_retry());
  OUTBOARD_CHECK(make_journal());
  log.info("the device was there, and on no bus: begun anew");
  return exported->start(std::move(node));
}

Status Server::State::take_over() {
  OUTBOARD_CHECK(check_not_on_itself());
  OUTBOARD_TRY(auto node, open_with_retry());
  OUTBOARD_TRY(const auto predecessor, read_journal());
  OUTBOARD_CHECK(check_storage());
  const bool known = static_cast<bool>(predecessor.recover);
  if (const Status adopted = exported->adopt(std::move(node), predecessor); !adopted)
    return Error(adopted.error()).while_doing("taking over the device that a dead server has left");
  log.info("took over the device that another server has left{}", known ? "" : "; its driver was not running");
  if (known) return note_storage();
  // Nothing can be in flight, and none of the messages that wait has been looked at yet.
  return make_journal();
}

Result<std::unique_ptr<Node>> Server::State::open_with_retry() const {
  // A server that has just been killed has it open until the last of its disk accesses has ended.
  return retry_while(is_code(EBUSY), Clock::system().now() + timeout, pause, "a server that has not ended yet",
                     [this] { return options.open_node(options.name); });
}

/// What a dead server has left is taken over and brought to an orderly end, or, where it cannot be, detached if nobody uses
/// it and nothing is in flight.
Status Server::State::clear_away(DeviceFactory& factory) {
  log.info("what another server has left as vduse:{} is removed", options.name);
  if (bus.attached(options.name)) {
    OUTBOARD_CHECK(make_device(factory));
    if (const Status taken = take_over(); taken) {
      OUTBOARD_CHECK(end_at_once());
    } else {
      log.warning("{}", taken.error().message());
      if (const unsigned requests = in_flight(); requests != 0) {
        return Error(taken.error())
            .cure(fmt::format("{} requests are in flight: {}", requests, how_to_finish_requests(taken.error().code())));
      }
    }
    forget_device();
  }
  if (!exists()) return {};
  OUTBOARD_TRY(auto control, options.open_control(options.device.api_version));
  Removal removal(
      bus, control,
      {.folder = options.folder, .open = [this](const std::string&) { return open_with_retry(); }, .log = log});
  return removal.remove(options.name);
}

unsigned Server::State::in_flight() const {
  const auto child = bus.child(options.name);
  return child && !child->made.empty() ? bus.in_flight(child->made) : 0;
}

/// Serves until the device is detached and gone.
Status Server::State::end_at_once() {
  const bool attach = std::exchange(options.attach, false);
  stop_event.signal();
  OUTBOARD_CHECK(run([] { return Status(); }));
  options.attach = attach;
  ending = finished = false;
  stop_event.drain();
  return {};
}

/// A device that is still served, by a server that ends in the middle: its queues must not run when it is destroyed. It
/// lives on in the kernel.
void Server::State::bring_to_rest() {
  if (!exported || exported->node() == nullptr) return;
  const auto rested = std::make_shared<bool>(false);
  exported->shut_down([rested](const Status&) { *rested = true; });
  const TimePoint end = Clock::system().now() + timeout;
  while (!*rested && Clock::system().now() < end) {
    if (!own->run_once(pause)) return;
  }
}

/// All that stands on the loops, and then these. What was late in coming to rest may still be used by the threads of the
/// queues, so they end first.
void Server::State::forget_device() {
  stop_watch.reset();
  timer.reset();
  bring_to_rest();
  if (pool) pool->stop();
  exported.reset();
  journal.reset();
  pool.reset();
  let_background_go();
  own.reset();
}

// The journal.

/// Whether another device of this machine is the one that a journal names.
bool Server::State::is_another(Bytes instance) const {
  std::error_code hidden;
  for (const auto& entry : std::filesystem::directory_iterator(options.folder, hidden)) {
    const auto found = identity_of(entry.path().string());
    const bool other = entry.path().filename() != options.name;
    if (other && found && std::ranges::equal(as_bytes_of(*found), instance)) return true;
  }
  return false;
}

Result<journal::File::Shape> Server::State::journal_shape() {
  OUTBOARD_TRY(const NodeIdentity node, identity_of(fmt::format("{}/{}", options.folder, options.name)));
  const auto& core = exported->core();
  const Bytes instance = as_bytes_of(node);
  return journal::File::Shape{.instance = {instance.begin(), instance.end()},
                              .device_id = core.identity().device_id,
                              .offered = core.offered(),
                              .queue_sizes = core.identity().queue_sizes,
                              .config_size = core.identity().config_size};
}

std::vector<std::byte> Server::State::transport_area(const std::vector<std::uint32_t>& of_groups) const {
  const std::size_t groups = std::min<std::size_t>(of_groups.size(), max_groups);
  const TransportHeader header{.api_version = le32(static_cast<std::uint32_t>(options.device.api_version)),
                               .groups = le32(static_cast<std::uint32_t>(groups))};
  const Bytes bytes = as_bytes_of(header);
  std::vector<std::byte> area(bytes.begin(), bytes.end());
  for (std::size_t i = 0; i < groups; ++i) {
    const le32 space(of_groups[i]);
    const Bytes more = as_bytes_of(space);
    area.insert(area.end(), more.begin(), more.end());
  }
  return area;
}

/// Where nothing is in flight; what was noted before, of this device or of one that is no more, says nothing then.
Status Server::State::make_journal() {
  if (options.no_journal) return {};
  OUTBOARD_TRY(const auto shape, journal_shape());
  journal.reset();
  OUTBOARD_CHECK(journal::File::discard(options.journal, [this](Bytes instance) { return is_another(instance); }));
  OUTBOARD_TRY(journal, journal::File::create(options.journal, shape));
  OUTBOARD_CHECK(journal->set_transport(transport_area({})));
  OUTBOARD_CHECK(note_storage());
  use_journal();
  return {};
}

void Server::State::use_journal() {
  look_after_journal();
  exported->core().set_journal(*journal);
}

void Server::State::look_after_journal() {
  journal->on_lost([this] { own->post([this] { renew_journal(); }); });
}

/// The journal was truncated. The buffers in flight are still known here, and are written to a new one.
void Server::State::renew_journal() {
  if (!journal || finished) return;
  log.error(
      "{} was truncated, and is made again. If this server had been killed meanwhile, its device could not have been taken over",
      options.journal);
  auto lost = std::shared_ptr<journal::File>(std::move(journal));
  const auto make = [&]() -> Status {
    OUTBOARD_TRY(const auto shape, journal_shape());
    if (const Status removed = lost->remove(); !removed && removed.error().code() != ENOENT) return removed;
    OUTBOARD_TRY(journal, journal::File::create(options.journal, shape));
    OUTBOARD_CHECK(journal->set_transport(transport_area(spaces)));
    OUTBOARD_CHECK(note_storage());
    return journal->set_config(config);
  };
  if (const Status made = make(); !made) {
    if (journal) [[maybe_unused]]
      const auto removed = journal->remove();
    journal.reset();
    log.error("{}: as long as this server runs it serves on; after a crash its device cannot be taken over",
              made.error().message());
    lost_journal = std::move(lost);
    return;
  }
  look_after_journal();
  exported->core().change_journal(*journal, [lost] {});
}

/// What to do about a journal that cannot be used. Removing the device is the last resort, since it destroys it.
Error Server::State::without_journal(const Error& why, const journal::File::Shape& now) const {
  switch (why.code()) {
    case EINVAL: {
      const auto before = journal::File::shape_of(options.journal);
      const std::string differing =
          before && options.differing_options ? options.differing_options(*before, now) : std::string();
      return Error(why).cure("start this server with the options of the server before it" +
                             (differing.empty() ? "" : ": " + differing));
    }
    case ENOTSUP:
      return Error(why).cure("start the version of the program that served the device before");
    case EACCES:
    case EPERM:
      return Error(why).cure("start this server as the user of the server before it");
    default:
      return Error(why).cure(
          "name the journal of the server before with --journal; where it is lost a running device cannot be taken over, and "
          "--replace removes it if nothing is in flight");
  }
}

/// Nothing that cannot be read is replaced while the driver runs: guessing would lose requests, or answer them twice.
Result<Export::Predecessor> Server::State::read_journal() {
  OUTBOARD_TRY(const auto shape, journal_shape());
  auto opened = journal::File::open(options.journal, shape);
  if (!opened) {
    if (opened.error().code() == EBUSY) return opened.error();
    return Export::Predecessor{.unknown_because = without_journal(opened.error(), shape)};
  }
  if (options.no_journal)
    log.warning(
        "{}: the take-over needs this journal of the server before, so it is used and kept up to date although "
        "--no-journal is given",
        options.journal);
  journal = std::move(*opened);
  const auto before = journal->predecessor();
  OUTBOARD_CHECK(wait_for_end_of(before.pid, before.start_time, timeout, log));
  Export::Predecessor predecessor;
  OUTBOARD_TRY(const auto area, journal->transport());
  // Written before a driver can come.
  if (area.empty()) {
    journal.reset();
    return Export::Predecessor{.unknown_because = Error(EBADMSG, "the journal was never finished").on(options.journal)};
  }
  ByteReader reader(area);
  OUTBOARD_TRY(const auto version, reader.read<le32>());
  OUTBOARD_TRY(const auto api_version, reader.read<le32>());
  OUTBOARD_TRY(const auto groups, reader.read<le32>());
  if (version != TransportHeader{}.version || api_version != options.device.api_version)
    return Error(ESTALE, fmt::format("the device is of API version {}", std::uint32_t{api_version}))
        .on(options.journal)
        .cure(fmt::format("--api {}", std::uint32_t{api_version}));
  for (std::uint32_t i = 0; i < groups; ++i) {
    OUTBOARD_TRY(const auto space, reader.read<le32>());
    predecessor.address_spaces.push_back(space);
  }
  OUTBOARD_TRY(config, journal->config());
  if (!config.empty()) predecessor.config = config;
  spaces = predecessor.address_spaces;
  predecessor.driver_ok_timeout = driver_ok_timeout;
  predecessor.recover = [this] { return journal->recover(exported->memory(), exported->queue_memory()); };
  use_journal();
  return predecessor;
}

}  // namespace outboard::vduse
