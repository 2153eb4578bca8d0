#include <outboard/vfio_user/internal/requests.hpp>

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include <outboard/base/internal/system_calls.hpp>
#include <outboard/vfio_user/internal/message_header.hpp>

namespace outboard::vfio_user {
namespace {

/// With more bytes than this unread by the server, a posted write waits.
constexpr std::size_t max_posted = std::size_t{256} << 10;
constexpr std::size_t short_tail = 256;
/// QEMU sends as many: other servers have been tested with it.
constexpr std::size_t max_merged = 200;
/// A wait this close to Options::timeout uses the socket's own timeout.
constexpr Duration timeout_slack = std::chrono::milliseconds(10);

/// The error of requests that are outstanding when the connection ends.
Error as_connection_error(const Error& error) {
  if (error.code() == EPROTO || error.code() == ENOBUFS || error.code() == ETIMEDOUT) return error;
  return Error(ECONNRESET, "the server has closed the connection");
}

TimePoint now() { return Clock::system().now(); }

}  // namespace

Requests::Requests(UniqueFd socket, const Options& options, Server server, std::move_only_function<void()> broken,
                   std::move_only_function<void()> backlog)
    : options_(options),
      channel_(std::move(socket), options.channel),
      server_(std::move(server)),
      on_broken_(std::move(broken)),
      on_backlog_(std::move(backlog)) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(options.timeout);
  const auto rest = std::chrono::duration_cast<std::chrono::microseconds>(options.timeout - seconds);
  // Not 0, which would be for ever.
  const timeval limit{.tv_sec = seconds.count(), .tv_usec = std::max<suseconds_t>(rest.count(), seconds.count() == 0)};
  ::setsockopt(channel_.fd(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  replies_.reserve(16);
}

Requests::~Requests() {
  on_broken_ = nullptr;
  fail(Error(ECONNRESET, "the client has ended"));
}

void Requests::call(Server server, std::move_only_function<void()> broken, std::move_only_function<void()> backlog) {
  server_ = std::move(server);
  on_broken_ = std::move(broken);
  on_backlog_ = std::move(backlog);
}

Status Requests::send(spec::Command command, std::uint16_t id, std::uint32_t flags, Bytes head, Bytes tail,
                      std::span<const int> fds) {
  const spec::Header header = command_header(command, id, flags, head.size() + tail.size());
  scratch_.resize(sizeof header + head.size());
  copy_bytes(as_bytes_of(header), scratch_);
  copy_bytes(head, MutableBytes(scratch_).subspan(sizeof header));
  // One piece is cheaper to send than two, where the copy is nothing.
  if (tail.size() <= short_tail) {
    scratch_.insert(scratch_.end(), tail.begin(), tail.end());
    tail = {};
  }
  return channel_.send(scratch_, tail, fds);
}

void Requests::start(const Request& request, Completion done) {
  if (error_) return done(*error_);
  const std::uint16_t id = replies_.new_id();
  replies_.add({.id = id,
                .command = request.command,
                .min_reply = request.min_reply,
                .max_reply = request.max_reply,
                .reply_has_fds = request.reply_has_fds,
                .deadline = now() + request.timeout.value_or(options_.timeout),
                .done = std::move(done)});
  if (auto sent = send_merged(); !sent) return fail(sent.error());
  if (auto sent = send(request.command, id, spec::flag::command, request.head, request.tail, request.fds); !sent) {
    fail(sent.error());
  }
}

void Requests::use_twin(UniqueFd socket) {
  // For max_fds: none come on it.
  twin_.emplace(std::move(socket), Channel::Limits{.max_message = options_.channel.max_message, .max_fds = 0});
}

Status Requests::post(spec::Command command, Bytes head, Bytes tail) {
  if (error_) return *error_;
  auto sent = send_merged();
  if (sent) sent = send(command, replies_.posted_id(), spec::flag::no_reply, head, tail, {});
  if (!sent) fail(sent.error());
  return bound_backlog();
}

Status Requests::post_write(const spec::RegionAccess& access, Bytes data) {
  const bool waits = channel_.queued() != 0;
  if (error_ || !merges_writes_ || !waits || data.size() > sizeof(spec::WriteMultiEntry::data))
    return post(spec::Command::region_write, as_bytes_of(access), data);
  spec::WriteMultiEntry entry{.offset = access.offset, .region = access.region, .count = access.count, .data = {}};
  copy_bytes(data, std::as_writable_bytes(std::span(entry.data)));
  merged_.push_back(entry);
  if (merged_.size() == max_merged) {
    if (auto sent = send_merged(); !sent) fail(sent.error());
  }
  return bound_backlog();
}

/// Sends the merged writes as one message.
Status Requests::send_merged() {
  if (merged_.empty()) return {};
  const spec::WriteMulti head{.wr_cnt = merged_.size()};
  auto sent = send(spec::Command::region_write_multi, replies_.posted_id(), spec::flag::no_reply, as_bytes_of(head),
                   std::as_bytes(std::span(merged_)), {});
  merged_.clear();
  return sent;
}

/// Sends what is kept, as far as the socket takes it.
Status Requests::flush() {
  OUTBOARD_CHECK(channel_.flush());
  return channel_.queued() == 0 ? send_merged() : Status();
}

/// Waits while more than max_posted bytes are unread by the server.
Status Requests::bound_backlog() {
  const TimePoint deadline = now() + options_.timeout;
  while (!error_ && channel_.queued() > max_posted) {
    const TimePoint moment = now();
    if (moment >= deadline) {
      fail(Error(ETIMEDOUT, "the server does not read what it is sent"));
    } else {
      poll_socket(deadline - moment);
      dispatch_all();
    }
  }
  if (error_) return *error_;
  if (wants_write()) on_backlog_();
  return {};
}

// What comes in.

/// Takes one whole message. False when there is none.
bool Requests::dispatch_one() {
  if (error_) return false;
  const auto ready = channel_.ready();
  if (!ready) {
    fail(ready.error());
    return false;
  }
  if (!*ready) return false;
  if (auto done = dispatch(channel_.take()); !done) fail(done.error());
  return true;
}

/// Whether the next message is a command or a reply that is awaited. Any other ends the connection, at the next call.
bool Requests::next_is_expected() {
  const auto ready = channel_.ready();
  if (!ready || !*ready) return false;
  const spec::Header& next = channel_.front();
  return !is_reply(next) || replies_.awaits(next.msg_id);
}

void Requests::dispatch_all() {
  while (dispatch_one()) {
  }
}

Status Requests::dispatch(Message message) {
  if (message.is_reply()) return complete(std::move(message));
  return server_(message, channel_);
}

Status Requests::complete(Message message) {
  OUTBOARD_TRY(const Pending* found, replies_.find(message.header));
  if (found == nullptr) return {};
  if (!is_error(message.header) && message.payload.size() > found->max_reply) {
    return Error(EPROTO, "the server sent a reply longer than was asked for");
  }
  const bool lost = message.fds_lost;
  Pending pending = replies_.take(found);
  auto reply = check(pending, std::move(message));
  pending.done(std::move(reply));
  if (lost) return Error(EPROTO, "the server sent more file descriptors than we take");
  return {};
}

/// Checks a reply that matches its request.
Result<Requests::Reply> Requests::check(const Pending& pending, Message message) {
  if (message.fds_lost || (!pending.reply_has_fds && !message.fds.empty())) {
    return Error(EPROTO, "the server sent file descriptors that were not asked for");
  }
  if (is_error(message.header)) {
    const int code = error_code(message.header);
    return Error(code, "the server answered: " + Error(code).what());
  }
  if (message.payload.size() < pending.min_reply) return Error(EPROTO, "the server sent a reply that is too short");
  return Reply{.payload = message.payload, .fds = std::move(message.fds)};
}

// Waiting.

void Requests::wait(const bool& done) {
  // The usual case: one request, sent just now, so that its time is the socket's own timeout and no clock is read.
  bool fresh = replies_.awaited().size() == 1 && options_.spin == Duration::zero() && !twin_;
  while (!done) {
    if (dispatch_one()) continue;
    if (error_) return;  // every request has been completed
    if (std::exchange(fresh, false) && channel_.queued() == 0) {
      receive(Channel::Wait::socket_timeout);
    } else {
      wait_for_socket();
    }
  }
  // Messages that were received together with the reply: the descriptor is not readable for them any more.
  while (next_is_expected() && dispatch_one()) {
  }
  if (wants_write()) on_backlog_();
}

/// One recvmsg: a server that sends without end does not hold the caller. If more has arrived, the descriptor stays readable.
void Requests::process() {
  if (error_) return;
  if (auto flushed = flush(); !flushed) return fail(flushed.error());
  dispatch_all();
  if (!error_ && receive(Channel::Wait::no)) dispatch_all();
  receive_from_twin();
}

/// What has come on the second socket, one receive of it.
void Requests::receive_from_twin() {
  if (!twin_ || error_) return;
  if (auto served = serve_twin(); !served) fail(served.error());
}

Status Requests::serve_twin() {
  OUTBOARD_CHECK(twin_->flush());
  OUTBOARD_TRY(const auto received, twin_->receive(Channel::Wait::no));
  if (received == Channel::Received::end)
    return Error(ECONNRESET, "the server has closed the connection's second socket");
  while (!error_) {
    OUTBOARD_TRY(const bool ready, twin_->ready());
    if (!ready) break;
    const Message message = twin_->take();
    if (message.is_reply()) return Error(EPROTO, "the server sent a reply on the second socket");
    OUTBOARD_CHECK(server_(message, *twin_));
  }
  return {};
}

/// One wait for bytes, at most until a request is due.
void Requests::wait_for_socket() {
  // Before receiving: a server that keeps sending other messages does not extend the deadline.
  const Duration left = next_deadline() - now();
  if (left <= Duration::zero()) return expire();
  if (options_.spin != Duration::zero() && receive_spinning(std::min(options_.spin, left))) return;
  // One system call where the socket's own timeout is what is left.
  if (!twin_ && channel_.queued() == 0 && left <= options_.timeout && left + timeout_slack >= options_.timeout) {
    receive(Channel::Wait::socket_timeout);
  } else {
    poll_socket(left);
  }
}

/// Whether something came.
bool Requests::receive(Channel::Wait wait) {
  const auto received = channel_.receive(wait);
  if (!received) {
    fail(received.error());
    return false;
  }
  if (*received == Channel::Received::end) fail(Error(ECONNRESET, "the server has closed the connection"));
  return *received == Channel::Received::data;
}

bool Requests::receive_spinning(Duration limit) {
  const TimePoint end = now() + limit;
  do {
    if (receive(Channel::Wait::no)) return true;
    receive_from_twin();
    if (error_) return true;
  } while (now() < end);
  return false;
}

void Requests::poll_socket(Duration limit) {
  const short wanted = channel_.queued() != 0 ? POLLIN | POLLOUT : POLLIN;
  const short wanted_of_twin = twin_wants_write() ? POLLIN | POLLOUT : POLLIN;
  std::array<pollfd, 2> states{pollfd{.fd = channel_.fd(), .events = wanted, .revents = 0},
                               pollfd{.fd = twin_fd(), .events = wanted_of_twin, .revents = 0}};
  if (system_calls().poll(states.data(), twin_ ? 2 : 1, limit) <= 0) return;
  if ((states[0].revents & POLLOUT) != 0) {
    if (auto flushed = flush(); !flushed) return fail(flushed.error());
  }
  if ((states[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0) receive(Channel::Wait::no);
  if (states[1].revents != 0) receive_from_twin();
}

TimePoint Requests::next_deadline() const {
  TimePoint first = TimePoint::max();
  for (const Pending& pending : replies_.awaited()) first = std::min(first, pending.deadline);
  return first;
}

void Requests::expire() {
  // The same part of a message was there at the last deadline: the rest is not coming.
  if (channel_.partial() && stalled_at_ == channel_.consumed()) {
    return fail(Error(ETIMEDOUT, "the server began a message and did not end it"));
  }
  stalled_at_.reset();
  if (channel_.partial()) stalled_at_ = channel_.consumed();
  const TimePoint moment = now();
  std::vector<Pending> late = replies_.give_up([moment](const Pending& one) { return one.deadline <= moment; });
  for (Pending& pending : late) pending.done(Error(ETIMEDOUT, "the server did not answer in time"));
  if (!late.empty() && options_.on_timeout == OnTimeout::end)
    return fail(Error(ETIMEDOUT, "the server did not answer in time; the connection is closed"));
  if (replies_.late() > options_.max_late) fail(Error(ETIMEDOUT, "the server leaves too much unanswered"));
}

/// The server has gone, was killed or broke the protocol. The socket stays open, shut down, so that its watcher is woken.
void Requests::fail(const Error& error) { end(as_connection_error(error)); }

void Requests::end(const Error& error) {
  if (error_) return;
  error_ = error;
  channel_.shut_down();
  if (twin_) twin_->shut_down();
  for (Pending& pending : replies_.end()) pending.done(*error_);
  if (on_broken_) on_broken_();
}

}  // namespace outboard::vfio_user
