#include <outboard/vfio_user/server.hpp>

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>

#include <outboard/base/internal/budget.hpp>
#include <outboard/base/internal/log_limit.hpp>
#include <outboard/base/internal/system_calls.hpp>
#include <outboard/base/reactor.hpp>
#include <outboard/memory/fault_guard.hpp>
#include <outboard/vfio_user/internal/refusal.hpp>
#include <outboard/vfio_user/internal/session.hpp>
#include <outboard/vfio_user/internal/socket_path.hpp>

namespace outboard::vfio_user {
namespace {

constexpr std::size_t min_transfer = 4096;  // all of configuration space in one read, as QEMU does
constexpr std::size_t max_transfer = std::size_t{64} << 20;
constexpr int accepts_per_turn = 8;
/// A connection that could not be accepted keeps the socket readable.
constexpr Duration accept_pause = std::chrono::seconds(1);

/// The most descriptors that a client can make this process hold: its connection's two sockets, those of one message, those of replies that
/// it does not read, and an eventfd for each interrupt; besides, the connections of clients that are being refused.
std::uint64_t max_descriptors_of_a_client(const pci::Function& function) {
  std::uint64_t count = 2 + (Session::Limits{}.max_fds + 1) + Session::max_queued_fds + Refusals::max_waiting;
  for (unsigned kind = 0; kind < pci::interrupt_kind_count; ++kind) {
    count += function.interrupts(static_cast<pci::InterruptKind>(kind)).count;
  }
  return count + 3;  // INTx has one more to unmask it; MSI and MSI-X each have one for vectors that are not bound
}

Session::Limits session_limits(const Server::Options& options, std::shared_ptr<Budget::Share> share,
                               std::shared_ptr<Budget::OpenDescriptors> eventfds) {
  return {.max_data_transfer = std::clamp(options.max_data_transfer, min_transfer, max_transfer),
          .max_queued = std::max(std::size_t{8} << 20, 2 * options.max_data_transfer),
          .stall_timeout = options.stall_timeout,
          .operation_timeout = options.operation_timeout,
          .dma_timeout = options.dma_timeout,
          .share = std::move(share),
          .eventfds = std::move(eventfds)};
}

UniqueFd spare_descriptor() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

// Members that are declared later use those declared before.
struct Server::State {
  State(ListeningSocket reserved, Options chosen) : options(std::move(chosen)), socket(std::move(reserved)) {}
  ~State() {
    if (session) session->abandon();
  }

  Status prepare(pci::FunctionFactory factory);
  Status watch_socket();
  void on_connection();
  bool accept_one();
  void serve(UniqueFd connection);
  void refuse(UniqueFd connection);
  void ended();
  void listen_again();
  void pause_listening();
  bool turn_away();
  void back_off(int error);
  void ask_to_leave();
  void run_while_served(Duration limit);
  int finish();

  Options options;
  Log client_log;  // for what clients cause: at a limited rate
  ListeningSocket socket;
  std::unique_ptr<Reactor> own;
  Loop* loop = nullptr;
  UniqueFd spare = spare_descriptor();  // closed to accept, and close, a connection when descriptors have run out
  std::unique_ptr<pci::Function> function;
  std::shared_ptr<Budget::Share> share;
  std::shared_ptr<Budget::OpenDescriptors> eventfds;  ///< the function keeps some when its client has gone
  std::optional<Refusals> refusals;
  Registration watch;
  bool listening = true;
  Registration retry;  ///< for accepting, after it has failed
  Registration release_timer;  ///< for the release of the last client, while the next one waits
  bool release_is_late = false;
  std::shared_ptr<Session> session;
  Peer client;
};

/// Everything but the socket: a failure comes before a client can find it.
Status Server::State::prepare(pci::FunctionFactory factory) {
  loop = options.loop;
  if (loop == nullptr) {
    OUTBOARD_TRY(own, Reactor::create({.clock = nullptr, .spin = options.spin}));
    loop = own.get();
  }
  client_log = limited(options.log, loop->clock());
  // A driver can break its device as often as it resets it: the function's lines have a rate of their own.
  OUTBOARD_TRY(function, factory(*loop, limited(options.log, loop->clock())));
  OUTBOARD_TRY(share, process_budget()->join(max_descriptors_of_a_client(*function)));
  eventfds = std::make_shared<Budget::OpenDescriptors>(share);
  refusals.emplace(*loop, options.stall_timeout, share);
  if (const auto ready = prepare_to_signal_peers(); !ready)
    options.log.warning(
        "a malicious client can block this server, and the devices of other clients in this process: {}; {}",
        ready.error().message(), ready.error().cure());
  return {};
}

Status Server::State::watch_socket() {
  OUTBOARD_TRY(watch, loop->watch(socket.fd(), Ready::readable, [this](Ready) { on_connection(); }));
  return {};
}

void Server::State::on_connection() {
  for (int i = 0; i < accepts_per_turn; ++i) {
    // The next client may connect before the server has seen that the last one left: it waits its turn.
    if (session && !release_is_late && (session->ending() || session->peer_hung_up())) return pause_listening();
    if (!accept_one()) return;
  }
}

bool Server::State::accept_one() {
  UniqueFd connection(system_calls().accept(socket.fd()));
  if (!connection) {
    if ((errno == EMFILE || errno == ENFILE) && turn_away()) return true;
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) back_off(errno);
    return false;
  }
  if (!options.allowed.allow(connection)) {
    client_log.warning("{} is refused: it is none of those who may connect",
                       peer_of(connection).value_or(Peer{}).describe());
    refusals->add(std::move(connection), EACCES);
  } else if (session) {
    refuse(std::move(connection));
  } else {
    serve(std::move(connection));
  }
  return true;
}

/// Out of descriptors: accepts a connection and closes it; else it would keep the socket readable. False, with errno: it could
/// not.
bool Server::State::turn_away() {
  spare.reset();
  UniqueFd connection(system_calls().accept(socket.fd()));
  const int error = errno;
  const bool turned_away = connection.valid();
  connection.reset();
  spare = spare_descriptor();
  if (turned_away) client_log.error("out of file descriptors: a client's connection was closed");
  errno = error;
  return turned_away;
}

/// accept() fails for a security module, a limit or a lack of memory. Trying again at once would be a busy loop.
void Server::State::back_off(int error) {
  if (!std::exchange(listening, false)) return;
  client_log.error("no client can be accepted: {}; trying again each second", Error(error).what());
  [[maybe_unused]] const auto paused = loop->rewatch(watch, Ready::none);
  retry = loop->after(accept_pause, [this] { listen_again(); });
}

void Server::State::serve(UniqueFd connection) {
  client = peer_of(connection).value_or(Peer{});
  session = std::make_shared<Session>(std::move(connection), *loop, *function, client_log,
                                      session_limits(options, share, eventfds));
  if (auto started = session->start([this] { ended(); }); !started) {
    client_log.error("a client cannot be served: {}", started.error().message());
    session->abandon();
    session.reset();
    return;
  }
  client_log.info("serving {}", client.describe());
  socket.note_client(client);
}

void Server::State::refuse(UniqueFd connection) {
  const Peer other = peer_of(connection).value_or(Peer{});
  if (session->ending()) {
    client_log.warning("{} is refused: the device still uses the memory of {}, which has left", other.describe(),
                       client.describe());
  } else {
    client_log.warning("{} is refused: {} is being served", other.describe(), client.describe());
  }
  refusals->add(std::move(connection), EBUSY);
}

void Server::State::ended() {
  socket.note_client(std::nullopt);
  session.reset();
  release_timer.reset();
  release_is_late = false;
  listen_again();
}

/// The next client waits while the function releases the last one, which is quick unless a back end hangs. After operation_timeout
/// it is refused (EBUSY), as is each client that connects before the release has ended.
void Server::State::pause_listening() {
  if (!std::exchange(listening, false)) return;
  [[maybe_unused]] const auto paused = loop->rewatch(watch, Ready::none);
  release_timer = loop->after(options.operation_timeout, [this] {
    release_timer.reset();
    release_is_late = session != nullptr;
    listen_again();
  });
}

void Server::State::listen_again() {
  retry.reset();
  if (std::exchange(listening, true)) return;
  if (auto watched = loop->rewatch(watch, Ready::readable); !watched) {
    options.log.error("cannot wait for the next client: {}", watched.error().message());
  }
}

/// After stop(), on the server's own loop: until the client has left and the function has released it.
void Server::State::run_while_served(Duration limit) {
  bool in_time = true;
  const Registration timer = loop->after(limit, [&in_time] { in_time = false; });
  while (session && in_time) {
    if (auto turned = own->run_once(Duration(-1)); !turned) break;
  }
}

void Server::State::ask_to_leave() {
  if (options.unplug_timeout == Duration::zero() || session->ending() || !session->hears_requests()) return;
  options.log.info("asking {} to release the device", client.describe());
  if (const auto asked = function->trigger_interrupts(pci::InterruptKind::request, 0, 1); !asked) {
    options.log.warning("{} cannot be asked to release the device: {}", client.describe(), asked.error().message());
    return;
  }
  run_while_served(options.unplug_timeout);
  if (session) options.log.warning("{} did not release the device in time: it is disconnected", client.describe());
}

/// After stop(): the function gets a limited time to release the client.
int Server::State::finish() {
  watch.reset();
  retry.reset();
  release_timer.reset();
  listening = true;  // so that listen_again() does nothing: no client is accepted any more
  if (session) ask_to_leave();
  if (!session) return 0;
  session->end(Error(ECANCELED, "the server ends"));
  run_while_served(options.operation_timeout);
  if (session) options.log.error("the device did not release its client in time");
  return 0;
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() = default;
Server::Server(Server&&) noexcept = default;
Server& Server::operator=(Server&&) noexcept = default;

Result<Server> Server::make(ListeningSocket socket, pci::FunctionFactory factory, Options options) {
  auto state = std::make_unique<State>(std::move(socket), std::move(options));
  OUTBOARD_CHECK(state->prepare(std::move(factory)));
  if (!state->socket.listens()) OUTBOARD_CHECK(state->socket.open(state->options.socket_mode));
  OUTBOARD_CHECK(state->watch_socket());
  return Server(std::move(state));
}

Result<Server> Server::listen(const std::string& path, pci::FunctionFactory factory, Options options) {
  OUTBOARD_TRY(auto socket, ListeningSocket::reserve(path, Clock::system().now() + options.path_timeout));
  return make(std::move(socket), std::move(factory), std::move(options));
}

Result<Server> Server::listen(const std::string& path, pci::FunctionFactory factory) {
  return listen(path, std::move(factory), Options{});
}

Result<Server> Server::adopt(UniqueFd listening_socket, pci::FunctionFactory factory, Options options) {
  OUTBOARD_TRY(auto socket, ListeningSocket::adopt(std::move(listening_socket)));
  return make(std::move(socket), std::move(factory), std::move(options));
}

int Server::run() {
  if (!state_->own) {
    state_->options.log.error("the server runs on a loop of someone else's: run that one");
    return 1;
  }
  if (state_->options.fault_guard == FaultGuard::install) {
    if (auto guarded = memory::install_fault_guard(); !guarded) {
      state_->options.log.error("{}", guarded.error().message());
      return 1;
    }
  }
  if (auto done = state_->own->run(); !done) {
    state_->options.log.error("the event loop cannot run: {}", done.error().message());
    return 1;
  }
  return state_->finish();
}

void Server::stop() {
  if (state_->own) state_->own->stop();
}

int Server::fd() const { return state_->own ? state_->own->fd() : -1; }

Status Server::process() {
  if (!state_->own) return {};
  return state_->own->process();
}

pci::Function& Server::function() { return *state_->function; }
Loop& Server::loop() { return *state_->loop; }

std::optional<Peer> Server::client() const {
  if (!state_->session || state_->session->ending()) return std::nullopt;
  return state_->client;
}

}  // namespace outboard::vfio_user
