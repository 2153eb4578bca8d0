#include <outboard/vfio_user/client.hpp>

#include <utility>

#include <outboard/vfio_user/internal/client_doorbells.hpp>
#include <outboard/vfio_user/internal/client_events.hpp>
#include <outboard/vfio_user/internal/client_interrupts.hpp>
#include <outboard/vfio_user/internal/client_memory.hpp>
#include <outboard/vfio_user/internal/client_move.hpp>
#include <outboard/vfio_user/internal/client_regions.hpp>
#include <outboard/vfio_user/internal/client_socket.hpp>
#include <outboard/vfio_user/internal/server_connection.hpp>

namespace outboard::vfio_user {

/// The connection, and what its client does over it. In the order of construction: what is destroyed first uses the rest.
struct Client::State {
  State(UniqueFd socket, std::string name, Options options);

  Status start();
  Status may_move() const;
  Result<std::unique_ptr<ServerConnection>> reach(UniqueFd socket, std::string name);
  Result<MigrationReport> move(ServerConnection& to, const MigrationOptions& options);

  ServedMemory served{spec::default_max_data_xfer_size};
  ServerConnection connection;
  ClientRegions regions{connection};
  ClientDoorbells doorbells{connection};
  ClientInterrupts interrupts{connection};
  ClientEvents events{connection};
  ClientMemory memory{connection, served};
  ClientMigration migration{connection};
  bool is_moving = false;
  std::optional<memory::DmaPool> dma;
  Registration watch;
};

Client::State::State(UniqueFd socket, std::string name, Options options)
    : connection(std::move(socket), std::move(name), std::move(options),
                 {.serve = [this](const Message& command, Channel& channel) { return served.serve(command, channel); },
                  .ended = [this] { regions.revoke(); },
                  .backlog = [this] { events.update_poll(); }}) {}

Status Client::State::start() {
  OUTBOARD_CHECK(connection.start());
  served.set_max_transfer(connection.max_transfer());
  dma.emplace(memory);
  return {};
}

Client::Client(std::unique_ptr<State> state) : state_(std::move(state)) {}

Client::~Client() {
  state_->watch.reset();
  // Destroyed by its handler, which must not wait: this must, for the server to let go of the memory.
  state_->connection.leave_handler();
  state_->memory.unmap_all();
  state_->dma.reset();
}

Result<std::unique_ptr<Client>> Client::over(UniqueFd socket, std::string name, Options options) {
  auto state = std::make_unique<State>(std::move(socket), std::move(name), std::move(options));
  if (auto started = state->start(); !started) return state->connection.named(started.error());
  return std::unique_ptr<Client>(new Client(std::move(state)));
}

Result<std::unique_ptr<Client>> Client::connect(const std::string& path, Options options) {
  OUTBOARD_TRY(UniqueFd socket,
               connect_socket(path, {.timeout = options.timeout, .wait = options.wait, .pause = options.pause}));
  const auto server = describe_peer(socket);
  auto client = over(std::move(socket), "vfio-user:" + path, std::move(options));
  if (!client) return explain_refusal(client.error(), path, server);
  return client;
}

std::string Client::name() const { return state_->connection.name(); }
bool Client::gone() const { return state_->connection.gone(); }
memory::DmaSpace& Client::dma() { return *state_->dma; }
memory::DmaMapper& Client::dma_mapper() { return state_->memory; }

// Regions.

Result<pci::RegionInfo> Client::region(unsigned index) { return state_->regions.info(index); }

Status Client::read_region(unsigned region, std::uint64_t offset, MutableBytes into) {
  return state_->regions.read(region, offset, into);
}

Status Client::write_region(unsigned region, std::uint64_t offset, Bytes from) {
  return state_->regions.write(region, offset, from);
}

Status Client::post_write(unsigned region, std::uint64_t offset, Bytes from) {
  return state_->regions.post_write(region, offset, from);
}

Result<pci::Window> Client::map_window(unsigned region, std::uint64_t offset, std::uint64_t length) {
  return state_->regions.window(region, offset, length);
}

Result<std::vector<pci::IoEventFd>> Client::io_eventfds(unsigned region) {
  OUTBOARD_CHECK(state_->regions.check_access(region, 0, 0));
  return state_->doorbells.of(region);
}

// Reset.

bool Client::resettable() const { return state_->connection.description().resettable; }

Status Client::reset() {
  ServerConnection& connection = state_->connection;
  if (!resettable()) return connection.named(Error(ENOTSUP, "the server offers no reset"));
  OUTBOARD_CHECK(connection.may_wait());
  return keep_config_across([&connection] {
    return connection.ask_named(
        {.command = spec::Command::device_reset, .timeout = connection.options().reset_timeout});
  });
}

// Interrupts.

Result<pci::InterruptInfo> Client::interrupts(pci::InterruptKind kind) { return state_->interrupts.info(kind); }

Status Client::bind_interrupts(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds) {
  return state_->interrupts.bind(kind, start, eventfds);
}

Status Client::bind_unmask(const EventFd& eventfd) { return state_->interrupts.bind_unmask(eventfd); }

Status Client::disable_interrupts(pci::InterruptKind kind) { return state_->interrupts.disable(kind); }

Status Client::mask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return state_->interrupts.mask(kind, start, count);
}

Status Client::unmask_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return state_->interrupts.unmask(kind, start, count);
}

Status Client::trigger_interrupts(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count) {
  return state_->interrupts.trigger(kind, start, count);
}

// Migration.

pci::Migration* Client::migration() { return &state_->migration; }

Result<MigrationReport> Client::migrate_to(const std::string& path, const MigrationOptions& options) {
  OUTBOARD_CHECK(state_->may_move());
  const Options& ours = state_->connection.options();
  OUTBOARD_TRY(UniqueFd socket,
               connect_socket(path, {.timeout = ours.timeout, .wait = ours.wait, .pause = ours.pause}));
  const auto server = describe_peer(socket);
  auto to = state_->reach(std::move(socket), "vfio-user:" + path);
  if (!to) return explain_refusal(to.error(), path, server);
  return state_->move(**to, options);
}

Result<MigrationReport> Client::migrate_over(UniqueFd socket, std::string name, const MigrationOptions& options) {
  OUTBOARD_CHECK(state_->may_move());
  OUTBOARD_TRY(const auto to, state_->reach(std::move(socket), std::move(name)));
  return state_->move(*to, options);
}

Status Client::State::may_move() const {
  OUTBOARD_CHECK(connection.may_wait());
  return is_moving ? Status(connection.named(Error(EALREADY, "the function is being moved already"))) : Status();
}

/// Until it is this client's, the new server's connection has nobody to tell that it has ended.
Result<std::unique_ptr<ServerConnection>> Client::State::reach(UniqueFd socket, std::string name) {
  auto to = std::make_unique<ServerConnection>(
      std::move(socket), std::move(name), connection.options(),
      ServerConnection::Callbacks{
          .serve = [this](const Message& command, Channel& channel) { return served.serve(command, channel); },
          .ended = nullptr,
          .backlog = nullptr});
  if (auto started = to->start(); !started) return to->named(started.error());
  return to;
}

Result<MigrationReport> Client::State::move(ServerConnection& to, const MigrationOptions& options) {
  is_moving = true;
  const MovedClient moved{.connection = connection,
                          .regions = regions,
                          .doorbells = doorbells,
                          .interrupts = interrupts,
                          .memory = memory,
                          .served = served};
  auto report = ClientMove(moved, to, options).run();
  is_moving = false;
  if (!report) return report;
  connection.trade_places(to);
  served.set_max_transfer(connection.max_transfer());
  events.reconnected(to.requests());
  if (connection.gone()) regions.revoke();
  return report;
}

// Events.

Status Client::attach(Loop& loop) {
  OUTBOARD_CHECK(state_->connection.may_wait());
  OUTBOARD_CHECK(state_->events.bind());
  OUTBOARD_TRY(state_->watch, loop.watch(state_->events.poll_fd(), Ready::readable, [this](Ready) {
    if (auto done = process(); !done) state_->connection.options().log.debug("{}", done.error().message());
  }));
  return {};
}

void Client::detach() { state_->watch.reset(); }

int Client::fd() const { return state_->events.poll_fd(); }

Status Client::process() {
  if (state_->connection.in_handler()) return state_->connection.may_wait();
  OUTBOARD_CHECK(state_->events.bind());
  state_->connection.requests().process();
  state_->events.update_poll();
  if (state_->events.take(pci::InterruptKind::error) && !tell(pci::Event::error)) return {};
  if (state_->events.take(pci::InterruptKind::request) && !tell(pci::Event::unplug_requested)) return {};
  if (state_->events.take_gone()) tell(pci::Event::gone);
  return {};
}

/// False: the handler has destroyed this object.
bool Client::tell(pci::Event event) {
  state_->connection.enter_handler();
  if (!raise(event)) return false;
  state_->connection.leave_handler();
  return true;
}

void Client::revoke() {
  state_->connection.requests().end(Error(ENODEV, "the function has been let go"));
  if (state_->events.take_gone()) tell(pci::Event::gone);
}

}  // namespace outboard::vfio_user
