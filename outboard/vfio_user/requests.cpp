#include <outboard/vfio_user/requests.hpp>

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>

namespace outboard::vfio_user {
namespace {

constexpr std::uint32_t largest_errno = 4095;
/// Posted writes beyond this wait for the server to read.
constexpr std::size_t most_posted = std::size_t{256} << 10;
constexpr std::size_t short_tail = 256;
/// QEMU's number: what other servers have been tried with.
constexpr std::size_t most_merged = 200;
/// A wait this close to the usual one may use the timeout that the socket has anyway.
constexpr Duration timeout_slack = std::chrono::milliseconds(10);

Error error_of(const spec::Header& header) {
  const bool sane = header.error != 0 && header.error <= largest_errno;
  const int code = sane ? static_cast<int>(header.error) : EIO;
  return Error(code, "the server answered: " + Error(code).what());
}

/// How the end of a connection looks to those who wait for a reply.
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
  pending_.reserve(16);
}

Requests::~Requests() {
  on_broken_ = nullptr;
  fail(Error(ECONNRESET, "the client has ended"));
}

/// An id that no reply to come can have.
std::uint16_t Requests::new_id() {
  const auto taken = [this](std::uint16_t id) {
    return std::ranges::any_of(pending_, [id](const Pending& one) { return one.id == id; }) ||
           std::ranges::any_of(abandoned_, [id](const Abandoned& one) { return one.id == id; });
  };
  while (taken(next_id_)) ++next_id_;
  return next_id_++;
}

Status Requests::send(spec::Command command, std::uint16_t id, std::uint32_t flags, Bytes head, Bytes tail,
                      std::span<const int> fds) {
  const spec::Header header{.msg_id = id,
                            .command = static_cast<std::uint16_t>(command),
                            .msg_size = static_cast<std::uint32_t>(sizeof(spec::Header) + head.size() + tail.size()),
                            .flags = flags,
                            .error = 0};
  scratch_.resize(sizeof header + head.size());
  std::memcpy(scratch_.data(), &header, sizeof header);
  std::ranges::copy(head, scratch_.begin() + sizeof header);
  // One piece is cheaper to send than two, where the copy is nothing.
  if (tail.size() <= short_tail) {
    scratch_.insert(scratch_.end(), tail.begin(), tail.end());
    tail = {};
  }
  return channel_.send(scratch_, tail, fds);
}

void Requests::start(const Request& request, Completion done) {
  if (error_) return done(*error_);
  const std::uint16_t id = new_id();
  pending_.push_back({.id = id,
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

Status Requests::post(spec::Command command, Bytes head, Bytes tail) {
  if (error_) return *error_;
  auto sent = send_merged();
  if (sent) sent = send(command, next_id_++, spec::flag::no_reply, head, tail, {});
  if (!sent) fail(sent.error());
  return bound_backlog();
}

Status Requests::post_write(const spec::RegionAccess& access, Bytes data) {
  const bool waits = channel_.queued() != 0;
  if (error_ || !merges_writes_ || !waits || data.size() > sizeof(spec::WriteMultiEntry::data))
    return post(spec::Command::region_write, as_bytes_of(access), data);
  spec::WriteMultiEntry entry{.offset = access.offset, .region = access.region, .count = access.count, .data = {}};
  std::memcpy(&entry.data, data.data(), data.size());
  merged_.push_back(entry);
  if (merged_.size() == most_merged) {
    if (auto sent = send_merged(); !sent) fail(sent.error());
  }
  return bound_backlog();
}

/// Gives the channel the writes that were held back, as one message.
Status Requests::send_merged() {
  if (merged_.empty()) return {};
  const spec::WriteMulti head{.wr_cnt = merged_.size()};
  auto sent = send(spec::Command::region_write_multi, next_id_++, spec::flag::no_reply, as_bytes_of(head),
                   std::as_bytes(std::span(merged_)), {});
  merged_.clear();
  return sent;
}

/// Sends what waits, as far as the socket takes it.
Status Requests::flush() {
  OUTBOARD_CHECK(channel_.flush());
  return channel_.queued() == 0 ? send_merged() : Status();
}

/// Waits while too much is posted that the server does not read.
Status Requests::bound_backlog() {
  const TimePoint deadline = now() + options_.timeout;
  while (!error_ && channel_.queued() > most_posted) {
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

/// Takes one message that has come whole. False when there is none.
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

/// A command, or a reply that is waited for, has come. What else there is ends the connection, at the next call.
bool Requests::next_is_expected() {
  const auto ready = channel_.ready();
  if (!ready || !*ready) return false;
  const spec::Header& next = channel_.front();
  return (next.flags & spec::flag::type_mask) != spec::flag::reply ||
         std::ranges::find(pending_, next.msg_id, &Pending::id) != pending_.end();
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
  const auto found = std::ranges::find(pending_, message.header.msg_id, &Pending::id);
  if (found == pending_.end()) return drop_late(message);
  if (static_cast<std::uint16_t>(found->command) != message.header.command) {
    return Error(EPROTO, "the server sent a reply for another command than the one it answers");
  }
  const bool is_error = (message.header.flags & spec::flag::error) != 0;
  if (!is_error && message.payload.size() > found->max_reply) {
    return Error(EPROTO, "the server sent a reply longer than was asked for");
  }
  const bool lost = message.fds_lost;
  Pending pending = std::move(*found);
  if (found != pending_.end() - 1) *found = std::move(pending_.back());
  pending_.pop_back();
  auto reply = check(pending, std::move(message));
  pending.done(std::move(reply));
  if (lost) return Error(EPROTO, "the server sent more file descriptors than we take");
  return {};
}

/// What a reply that matches its request is worth.
Result<Requests::Reply> Requests::check(const Pending& pending, Message message) {
  if (message.fds_lost || (!pending.reply_has_fds && !message.fds.empty())) {
    return Error(EPROTO, "the server sent file descriptors that were not asked for");
  }
  if ((message.header.flags & spec::flag::error) != 0) return error_of(message.header);
  if (message.payload.size() < pending.min_reply) return Error(EPROTO, "the server sent a reply that is too short");
  return Reply{.payload = message.payload, .fds = std::move(message.fds)};
}

Status Requests::drop_late(const Message& message) {
  const auto found = std::ranges::find(abandoned_, message.header.msg_id, &Abandoned::id);
  if (found == abandoned_.end()) return Error(EPROTO, "the server sent a reply that answers nothing");
  if (static_cast<std::uint16_t>(found->command) != message.header.command) {
    return Error(EPROTO, "the server sent a reply for another command than the one it answers");
  }
  abandoned_.erase(found);
  return {};
}

// Waiting.

void Requests::wait(const bool& done) {
  // The usual case: one request, sent just now, so that its time is the socket's own timeout and no clock is read.
  bool fresh = pending_.size() == 1 && options_.spin == Duration::zero();
  while (!done) {
    if (dispatch_one()) continue;
    if (error_) return;  // every request has been completed
    if (std::exchange(fresh, false) && channel_.queued() == 0) {
      receive(Channel::Wait::socket_timeout);
    } else {
      wait_for_socket();
    }
  }
  // What came in one piece with the reply: nothing makes the descriptor readable for it any more.
  while (next_is_expected() && dispatch_one()) {
  }
  if (wants_write()) on_backlog_();
}

/// One recvmsg: a server that sends without end does not keep the caller, and what is left keeps the descriptor readable.
void Requests::process() {
  if (error_) return;
  if (auto flushed = flush(); !flushed) return fail(flushed.error());
  dispatch_all();
  if (!error_ && receive(Channel::Wait::no)) dispatch_all();
}

/// One wait for bytes, at most until a request is due.
void Requests::wait_for_socket() {
  // First: a server that keeps sending something else does not put the end off.
  const Duration left = next_deadline() - now();
  if (left <= Duration::zero()) return expire();
  if (options_.spin != Duration::zero() && receive_spinning(std::min(options_.spin, left))) return;
  // One system call where the socket's own timeout is what is left.
  if (channel_.queued() == 0 && left <= options_.timeout && left + timeout_slack >= options_.timeout) {
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
    if (error_) return true;
  } while (now() < end);
  return false;
}

void Requests::poll_socket(Duration limit) {
  const short wanted = channel_.queued() != 0 ? POLLIN | POLLOUT : POLLIN;
  pollfd state{.fd = channel_.fd(), .events = wanted, .revents = 0};
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit);
  const timespec timeout{.tv_sec = seconds.count(), .tv_nsec = (limit - seconds).count()};
  if (::ppoll(&state, 1, &timeout, nullptr) <= 0) return;
  if ((state.revents & POLLOUT) != 0) {
    if (auto flushed = flush(); !flushed) return fail(flushed.error());
  }
  if ((state.revents & (POLLIN | POLLHUP | POLLERR)) != 0) receive(Channel::Wait::no);
}

TimePoint Requests::next_deadline() const {
  TimePoint first = TimePoint::max();
  for (const Pending& pending : pending_) first = std::min(first, pending.deadline);
  return first;
}

void Requests::expire() {
  // The same part of a message was here when the last one came to its end: it is not going to be a whole one.
  if (channel_.partial() && stalled_at_ == channel_.consumed()) {
    return fail(Error(ETIMEDOUT, "the server began a message and did not end it"));
  }
  stalled_at_.reset();
  if (channel_.partial()) stalled_at_ = channel_.consumed();
  const TimePoint moment = now();
  std::vector<Pending> late;
  std::erase_if(pending_, [&](Pending& pending) {
    if (pending.deadline > moment) return false;
    abandoned_.push_back({pending.id, pending.command});
    late.push_back(std::move(pending));
    return true;
  });
  for (Pending& pending : late) pending.done(Error(ETIMEDOUT, "the server did not answer in time"));
  if (!late.empty() && options_.on_timeout == OnTimeout::end)
    return fail(Error(ETIMEDOUT, "the server did not answer in time and is given up"));
  if (abandoned_.size() > options_.max_abandoned) fail(Error(ETIMEDOUT, "the server leaves too much unanswered"));
}

/// The end, once. The socket stays, shut down, so that whoever watches it is woken.
void Requests::fail(const Error& error) { end(as_connection_error(error)); }

void Requests::end(const Error& error) {
  if (error_) return;
  error_ = error;
  channel_.shut_down();
  for (Pending& pending : std::exchange(pending_, {})) pending.done(*error_);
  if (on_broken_) on_broken_();
}

}  // namespace outboard::vfio_user
