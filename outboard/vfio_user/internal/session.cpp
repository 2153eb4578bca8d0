#include <outboard/vfio_user/internal/session.hpp>

#include <poll.h>

#include <algorithm>

#include <outboard/vfio_user/internal/dma_commands.hpp>
#include <outboard/vfio_user/internal/version_command.hpp>

namespace outboard::vfio_user {
namespace {

using spec::Command;

bool is(const spec::Header& request, Command command) { return request.command == static_cast<std::uint16_t>(command); }

Error still_busy() {
  return Error(EBUSY, "an earlier unmap, reset or change of the state of migration is still in progress");
}

/// With more than this unread by the client, its further commands wait.
constexpr std::size_t high_water = std::size_t{256} << 10;

}  // namespace

Session::Session(UniqueFd socket, Loop& loop, pci::Function& function, Log log, const Limits& limits)
    : loop_(loop),
      function_(function),
      log_(std::move(log)),
      limits_(limits),
      descriptors_(limits.share, 1),
      channel_(std::move(socket),
               {.max_message = sizeof(spec::Header) + sizeof(spec::RegionAccess) + limits.max_data_transfer,
                .max_fds = limits.max_fds,
                .max_queued = limits.max_queued}),
      stall_timer_(loop, channel_, limits.stall_timeout, [this](const Error& why) { end(why); }),
      replies_(channel_, log_) {}

Status Session::start(Loop::Task ended) {
  on_ended_ = std::move(ended);
  OUTBOARD_TRY(watch_, loop_.watch(channel_.fd(), interest_, [this](Ready ready) { on_ready(ready); }));
  stall_timer_.update(StallTimer::Expected::version);
  return {};
}

void Session::abandon() {
  move(SessionEvent::abandoned);
  on_ended_ = nullptr;
  watch_.reset();
  slow_timer_.reset();
  stall_timer_.stop();
  replies_.close();
  if (messages_) messages_->close(Error(ECONNRESET, "the server ends"));
  if (twin_) twin_->close();
  channel_.close();
}

bool Session::peer_hung_up() const {
  pollfd state{.fd = channel_.fd(), .events = POLLRDHUP, .revents = 0};
  return is_connected(phase_) && ::poll(&state, 1, 0) == 1 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

// Reading and the order of things.

void Session::on_ready(Ready ready) {
  const auto self = shared_from_this();
  if (has(ready, Ready::writable)) {
    if (auto flushed = channel_.flush(); !flushed) return end(flushed.error());
  }
  if (has(ready, Ready::readable) || has(ready, Ready::hangup)) {
    receive_once();
  } else {
    process();
  }
}

/// Once for each turn of the loop, which is a message or about a thousand bytes: a client that floods the server does not keep
/// others waiting, and one that has sent more than was taken makes the descriptor readable again.
void Session::receive_once() {
  if (intake_ == Intake::open) {
    const auto received = channel_.receive(Channel::Wait::no);
    if (!received) return end(received.error());
    if (*received == Channel::Received::end) return end(Error(ECONNRESET, "the client has closed the connection"));
  }
  process();
}

void Session::process() {
  if (intake_ == Intake::dispatching || !is_connected(phase_)) return;
  intake_ = Intake::dispatching;
  const auto next = dispatch_messages();
  intake_ = next.value_or(Intake::open);
  if (!next) return end(next.error());
  if (!is_connected(phase_)) return;
  update_interest();
  stall_timer_.update(phase_ == SessionPhase::negotiating ? StallTimer::Expected::version
                      : intake_ == Intake::held_back      ? StallTimer::Expected::nothing
                                                          : StallTimer::Expected::commands);
}

Result<Session::Intake> Session::dispatch_messages() {
  while (is_connected(phase_)) {
    OUTBOARD_TRY(const bool ready, channel_.ready());
    if (!ready) break;
    if (must_hold_back()) return Intake::held_back;
    OUTBOARD_CHECK(dispatch(channel_.take()));
  }
  return Intake::open;
}

/// Whether the message that is ready has to wait.
bool Session::must_hold_back() const {
  const bool unread = channel_.queued() > high_water || channel_.queued_fds() > max_queued_fds;
  return unread || (phase_ == SessionPhase::operating && !is_reply(channel_.front()));
}

void Session::update_interest() {
  Ready wanted = intake_ == Intake::held_back ? Ready::none : Ready::readable;
  if (channel_.queued() != 0) wanted = wanted | Ready::writable;
  if (wanted == interest_) return;
  if (auto changed = loop_.rewatch(watch_, wanted); !changed) return end(changed.error());
  interest_ = wanted;
}

Status Session::dispatch(Message message) {
  if (message.is_reply()) {
    if (!messages_ || twin_) return Error(EPROTO, "the client sent a reply that answers nothing");
    return messages_->reply(message);
  }
  if (phase_ == SessionPhase::negotiating) return negotiate(message);
  if (auto checked = check_command(message); !checked) return replies_.refuse(message.header, checked.error());
  switch (static_cast<Command>(message.header.command)) {
    case Command::dma_unmap:
      return unmap(message);
    case Command::device_reset:
      return reset(message);
    case Command::device_feature:
    case Command::mig_data_read:
    case Command::mig_data_write:
      if (migration_) return migrate(message);
      [[fallthrough]];
    default:
      return commands_->handle(message);
  }
}

// VERSION.

/// The first message. Whatever is wrong with it is told to the client, and ends the connection.
Status Session::negotiate(const Message& message) {
  const auto proposal = parse_proposal(message);
  if (proposal) return serve(message, *proposal);
  OUTBOARD_CHECK(replies_.refuse(message.header, proposal.error()));
  return proposal.error();
}

/// The client's end of a second socket. None: it can be done without.
UniqueFd Session::make_twin() {
  const Channel::Limits limits{.max_message = sizeof(spec::Header) + sizeof(spec::DmaAccess) + spec::max_dma_message,
                               .max_fds = 0};
  auto made = TwinSocket::create(loop_, limits, limits_.share,
                                 {.reply = [this](const Message& reply) { return messages_->reply(reply); },
                                  .ended = [this](const Error& why) { end(why); }});
  if (!made) {
    log_.warning("the client's second socket is left out: {}", made.error().message());
    return {};
  }
  twin_ = std::move(made->ours);
  return std::move(made->clients);
}

Status Session::serve(const Message& message, const VersionMessage& proposal) {
  const Capabilities& client = proposal.capabilities;
  UniqueFd clients_end;
  if (client.twin_socket && client.max_msg_fds != 0) clients_end = make_twin();
  messages_ = std::make_shared<MessageDma>(
      loop_, twin_ ? twin_->channel() : channel_,
      MessageDma::Limits{.max_transfer = std::min({std::uint64_t{limits_.max_data_transfer}, client.max_data_xfer_size,
                                                   spec::max_dma_message}),
                         .timeout = limits_.dma_timeout},
      MessageDma::Callbacks{.broken = [this](const Error& why) { end(why); },
                            .sent = [this] { twin_ ? twin_->sent() : update_interest(); }});
  commands_.emplace(function_, replies_, messages_, log_,
                    ClientCommands::Options{.client = client,
                                            .max_data_transfer = limits_.max_data_transfer,
                                            .share = limits_.share,
                                            .eventfds = limits_.eventfds});
  if (pci::Migratable* const migratable = function_.migratable())
    migration_ = std::make_shared<MigrationCommands>(*migratable, limits_.max_data_transfer);
  move(SessionEvent::version_accepted);
  auto answer = accept(
      proposal,
      {.max_fds = limits_.max_fds, .max_data_transfer = limits_.max_data_transfer, .share = limits_.share.get()});
  if (!clients_end) return replies_.send(message.header, build_version(answer));
  answer.capabilities.twin_socket = true;
  answer.capabilities.twin_socket_fd_index = 0;
  const int attached = clients_end.get();
  return replies_.send(message.header, build_version(answer), std::span<const int>(&attached, 1));
}

// Operations: what the function may take its time for.

Status Session::unmap(const Message& message) {
  const auto unmap = parse_unmap(message.payload);
  if (!unmap) return replies_.refuse(message.header, unmap.error());
  if (function_is_busy(phase_)) return replies_.refuse(message.header, still_busy());
  auto done = begin_operation(SessionEvent::operation_started, message.header, as_bytes_of(unmap->echo));
  if (unmap->all) {
    function_.unmap_all(std::move(done));
  } else {
    function_.unmap(unmap->range, std::move(done));
  }
  if (operation_.outcome == Operation::Outcome::failed) return {};  // nothing was unmapped
  // The client answers no DMA message while it waits for the reply: those in the range must not be waited for.
  const Error unmapped(EFAULT, "the client has unmapped this memory");
  if (unmap->all) {
    messages_->cancel_all(unmapped);
  } else {
    messages_->cancel(unmap->range, unmapped);
  }
  watch_operation();
  return {};
}

Status Session::reset(const Message& message) {
  if (!function_.resettable()) {
    return replies_.refuse(message.header, Error(ENOTSUP, "this function cannot be reset"));
  }
  if (function_is_busy(phase_)) return replies_.refuse(message.header, still_busy());
  function_.reset(begin_operation(SessionEvent::operation_started, message.header, {}));
  if (operation_.outcome == Operation::Outcome::failed) return {};
  messages_->cancel_all(Error(ECANCELED, "the device is being reset"));
  watch_operation();
  return {};
}

Status Session::migrate(const Message& message) {
  switch (static_cast<Command>(message.header.command)) {
    case Command::mig_data_read:
      return replies_.answer(message.header, migration_->read_data(message.payload));
    case Command::mig_data_write:
      return replies_.answer(message.header, migration_->write_data(message.payload));
    default:
      break;
  }
  const auto wanted = MigrationCommands::asked_state(message.payload);
  if (!wanted) return replies_.refuse(message.header, wanted.error());
  if (*wanted) return set_migration_state(message, **wanted);
  return replies_.answer(message.header, migration_->feature(message.payload));
}

/// vfio-user, MIG_DEVICE_STATE: the transition is complete when it is answered.
Status Session::set_migration_state(const Message& message, MigrationState wanted) {
  if (function_is_busy(phase_)) return replies_.refuse(message.header, still_busy());
  migration_->go_to(wanted, begin_operation(SessionEvent::operation_started, message.header, message.payload));
  watch_operation();
  return {};
}

pci::Function::Completion Session::begin_operation(SessionEvent event, const spec::Header& request, Bytes echo) {
  move(event);
  ++operation_.number;
  operation_.request = request;
  operation_.echo.assign(echo.begin(), echo.end());
  operation_.outcome = Operation::Outcome::pending;
  return [weak = weak_from_this()](const Status& result) {
    if (const auto self = weak.lock()) self->operation_done(result);
  };
}

/// After the call into the function has returned: what has not ended by now is given a limited time.
void Session::watch_operation() {
  if (phase_ != SessionPhase::operating && phase_ != SessionPhase::releasing) return;
  slow_timer_ = loop_.after(limits_.operation_timeout, [this] { operation_late(); });
}

void Session::operation_done(const Status& result) {
  const SessionPhase before = phase_;
  if (!function_is_busy(before)) return;
  move(SessionEvent::operation_ended);
  if (result && migration_ && is(operation_.request, Command::device_reset)) migration_->was_reset();
  operation_.outcome = result ? Operation::Outcome::done : Operation::Outcome::failed;
  slow_timer_.reset();
  if (phase_ == SessionPhase::ended) return released();
  if (phase_ == SessionPhase::closed) return post_release();
  if (before == SessionPhase::overdue) {
    log_.warning("the device has completed {}, which was answered with ETIMEDOUT", operation_name());
  } else if (auto answered = answer_operation(result); !answered) {
    return end(answered.error());
  }
  process();
}

Status Session::answer_operation(const Status& result) {
  if (!result) return replies_.refuse(operation_.request, result.error());
  return replies_.send(operation_.request, operation_.echo);
}

const char* Session::operation_name() const {
  if (is(operation_.request, Command::dma_unmap)) return "an unmap";
  return is(operation_.request, Command::device_reset) ? "a reset" : "a change of the state of migration";
}

/// A client must have its answer, or it gives the connection up; the device goes on and is not to be trusted.
void Session::operation_late() {
  slow_timer_.reset();
  if (phase_ == SessionPhase::releasing)
    return log_.error("the device still uses the memory of the client that has left");
  log_.error("the device takes too long for {}; it is answered with ETIMEDOUT", operation_name());
  const std::uint64_t number = operation_.number;
  if (is(operation_.request, Command::dma_unmap))
    function_.unmap_is_late("requests did not let go of memory that the client has unmapped");
  // That may have ended it, and then the next one, which is not late, may have begun.
  if (phase_ != SessionPhase::operating || operation_.number != number) return;
  move(SessionEvent::operation_late);
  if (auto answered = answer_operation(Error(ETIMEDOUT, "the device takes too long")); !answered) {
    return end(answered.error());
  }
  process();
}

// The end.

void Session::end(const Error& why) {
  if (!is_connected(phase_)) return;
  const auto self = shared_from_this();
  move(SessionEvent::disconnected);
  log_.info("the connection ends: {}", why.message());
  watch_.reset();
  stall_timer_.stop();
  slow_timer_.reset();
  replies_.close();
  // First those who use the client's memory by messages, then the memory.
  if (messages_) messages_->close(Error(ECONNRESET, "the client is gone"));
  if (twin_) twin_->close();
  channel_.close();
  if (phase_ == SessionPhase::closed) post_release();
}

/// Not at once: what went wrong may have done so inside a call into the function.
void Session::post_release() {
  loop_.post([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->release();
  });
}

void Session::release() {
  if (phase_ != SessionPhase::closed) return;
  function_.release_client(begin_operation(SessionEvent::release_started, {}, {}));
  watch_operation();
}

void Session::released() {
  if (commands_) commands_->count_eventfds();
  loop_.post([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self && self->on_ended_) std::exchange(self->on_ended_, nullptr)();
  });
}

}  // namespace outboard::vfio_user
