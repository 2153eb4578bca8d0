#include <outboard/vfio_user/internal/channel.hpp>

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <string>

#include <outboard/base/internal/system_calls.hpp>
#include <outboard/vfio_user/internal/message_descriptors.hpp>

namespace outboard::vfio_user {
namespace {

constexpr std::size_t initial_buffer = 8192;
/// What is received first of what comes next: a whole register access of up to 8 bytes, SET_IRQS, DMA_MAP.
constexpr std::size_t first_bytes = 48;
/// How much is read ahead: some thirty register accesses.
constexpr std::size_t read_ahead = 1024;
constexpr std::size_t header_size = sizeof(spec::Header);
// A client may send 4,824 bytes (WRITE_MULTI from QEMU) before it is told of the limit that the user asked for.
constexpr std::size_t min_max_message = 8192;

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

int flags_of(Channel::Wait wait) { return wait == Channel::Wait::no ? MSG_DONTWAIT : 0; }

// Of Linux 6.5; older headers lack it.
#ifdef SO_PASSPIDFD
constexpr int so_passpidfd = SO_PASSPIDFD;
#else
constexpr int so_passpidfd = 76;  // the number has been the same on all architectures but SPARC and PA-RISC
#endif

/// What a kernel does not have, it does not do either.
void set_option(const UniqueFd& socket, int option, int value) {
  ::setsockopt(socket.get(), SOL_SOCKET, option, &value, sizeof value);
}

void set_up(const UniqueFd& socket) {
  // A byte that was sent with MSG_OOB (Linux 5.15), also before this, is data like any other. Else it would keep the socket
  // readable while a look finds nothing, and the loop would spin.
  set_option(socket, SO_OOBINLINE, 1);
  // A listening socket that others have made hands these on. Nobody here wants what they add to each message; a pidfd would
  // even be made by a recvmsg that fails.
  for (const int option : {SO_PASSCRED, SO_PASSSEC, so_passpidfd}) set_option(socket, option, 0);
}

Status check_header(const spec::Header& header, std::size_t max_message) {
  const std::uint32_t type = header.flags & spec::flag::type_mask;
  if (header.msg_size < header_size || header.msg_size > max_message) {
    return Error(EPROTO, "a message of " + std::to_string(header.msg_size) + " bytes was announced");
  }
  if (type != spec::flag::command && type != spec::flag::reply) {
    return Error(EPROTO, "a message of type " + std::to_string(type) + " arrived, neither command nor reply");
  }
  return {};
}

}  // namespace

Channel::Channel(UniqueFd socket, Limits limits)
    : socket_(std::move(socket)),
      limits_(limits),
      buffer_(initial_buffer),
      outgoing_(socket_.get(), limits.max_queued) {
  limits_.max_message = std::max(limits_.max_message, min_max_message);
  limits_.max_fds = std::min(limits_.max_fds, spec::kernel_max_fds);
  set_up(socket_);
}

/// What a long message took is not kept: one is rare, and there may be many connections. Nor is it kept until the next message,
/// which may never come.
void Channel::give_back() {
  if (begin_ != end_ || buffer_.size() <= initial_buffer) return;
  begin_ = end_ = 0;
  [[maybe_unused]] const Status smaller = buffer_.replace(initial_buffer, {});
}

/// Makes room for `wanted` bytes, of which some have arrived.
Status Channel::make_room(std::size_t wanted) {
  if (begin_ == end_) begin_ = end_ = 0;
  if (begin_ + wanted <= buffer_.size()) return {};
  const Bytes arrived(buffer_.data() + begin_, end_ - begin_);
  if (wanted > buffer_.size()) {
    OUTBOARD_CHECK(buffer_.replace(wanted, arrived));
  } else {
    std::memmove(buffer_.data(), arrived.data(), arrived.size());
  }
  end_ = arrived.size();
  begin_ = 0;
  return {};
}

/// Receives no more than `size` bytes. -1: errno says why.
ssize_t Channel::receive_bytes(msghdr& message, std::size_t size, Longer longer, Wait wait) {
  // The second piece lies nowhere. The kernel gives what one send brought as a whole or, where it cannot be written, not at
  // all: EFAULT if that is the first one.
  iovec pieces[] = {{buffer_.data() + end_, size}, {nullptr, 1}};
  message.msg_iov = pieces;
  message.msg_iovlen = longer == Longer::is_left ? 2 : 1;
  // Room for one descriptor more than allowed costs nothing and leaves fewer of them to the kernel to drop.
  message.msg_controllen = CMSG_SPACE(sizeof(int) * limits_.max_fds);
  return system_calls().receive(socket_.get(), message, MSG_CMSG_CLOEXEC | flags_of(wait));
}

/// What waits, up to `size` bytes or the end of the first send that brings descriptors.
Channel::Waiting Channel::peek(std::size_t size, Wait wait) {
  iovec piece{buffer_.data() + end_, size};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  const ssize_t got = system_calls().receive(socket_.get(), message, MSG_PEEK | flags_of(wait));
  // There is no room for descriptors, and they stay.
  return {.size = got, .descriptors = got > 0 && (message.msg_flags & MSG_CTRUNC) != 0};
}

/// Receives bytes without descriptors at once, as many as were looked at or as their first message has; else the sends before
/// the one that brings descriptors; else that one, and no more. 0: the peer has closed. -1: errno says why.
ssize_t Channel::receive_after_a_look(msghdr& message, Wait wait) {
  const std::size_t arrived = end_ - begin_;
  for (std::size_t room = read_ahead - arrived;; room *= 2) {
    if (!make_room(arrived + room)) return errno = ENOMEM, -1;
    const Waiting waiting = peek(room, wait);
    if (waiting.size <= 0) return waiting.size;
    const auto size = static_cast<std::size_t>(waiting.size);
    look_ahead_.found(arrived + size > first_bytes);
    if (!waiting.descriptors) {
      plain_ = size;  // what comes meanwhile may have descriptors
      return receive_bytes(message, std::max(size, rest_of_first(arrived + size)), Longer::is_cut, wait);
    }
    const ssize_t before = receive_bytes(message, size - 1, Longer::is_left, wait);
    if (before >= 0 || errno != EFAULT) return before;
    if (size < room) return receive_bytes(message, size, Longer::is_cut, wait);
    // The first send is longer than what was looked at.
  }
}

/// How many bytes of the first message are not here, of which `seen` bytes are or can be; there is room for them then.
std::size_t Channel::rest_of_first(std::size_t seen) {
  spec::Header header;
  if (seen < header_size) return 0;
  std::memcpy(&header, buffer_.data() + begin_, header_size);
  if (header.msg_size <= seen || header.msg_size > limits_.max_message) return 0;
  if (!make_room(header.msg_size)) return 0;  // it is the next receive()'s to say
  return header.msg_size - (end_ - begin_);
}

/// Takes the descriptors that came with the last `size` bytes, of a message that was not complete before.
Status Channel::keep_fds(msghdr& message, std::size_t size) {
  auto fds = take_fds(message);
  const bool lost = (message.msg_flags & MSG_CTRUNC) != 0 || fds.size() > limits_.max_fds;
  if (fds.empty() && !lost) return {};
  // A header may come in pieces, and its descriptors with any of them; the body brings none.
  if (end_ + plain_ - begin_ >= header_size) return Error(EPROTO, "file descriptors came with the middle of a message");
  OUTBOARD_TRY(const std::size_t owner,
               owner_of_descriptors(Bytes(buffer_.data() + begin_, end_ + size - begin_), size));
  fds_belong_to_ = consumed_ + owner;
  fds_lost_ |= lost || !fds_.empty();
  fds_ = fds_lost_ ? std::vector<UniqueFd>{} : std::move(fds);
  return {};
}

Result<Channel::Received> Channel::receive(Wait wait) {
  OUTBOARD_TRY(const Received received, receive_some(wait));
  if (received != Received::data || have_header_) return received;
  // The beginning of a message that is longer than what is received first: the rest comes along if it is there.
  OUTBOARD_TRY(const bool complete, ready());
  if (!complete && have_header_) OUTBOARD_CHECK(receive_some(Wait::no));
  return Received::data;
}

/// The kernel does not tell with which of the bytes of one recvmsg descriptors came, only that none came with a later send; and
/// once a send has been received in part, no longer where it ends. So sends are received as a whole, and what is longer than
/// `first_bytes` is looked at first. That is a second system call, which pays also where many messages wait.
Result<Channel::Received> Channel::receive_some(Wait wait) {
  OUTBOARD_CHECK(make_room(have_header_ ? header_.msg_size : read_ahead));
  plain_ = 0;
  DescriptorBuffer control;
  msghdr message{};
  message.msg_control = control.bytes.data();
  ssize_t got = 0;
  if (have_header_) {
    got = receive_bytes(message, header_.msg_size - (end_ - begin_), Longer::is_cut, wait);
  } else if (partial() || (posted_ && look_ahead_.is_due())) {
    got = receive_after_a_look(message, wait);
  } else {
    got = receive_bytes(message, first_bytes, Longer::is_left, wait);
    if (got < 0 && errno == EFAULT) got = receive_after_a_look(message, wait);
  }
  const bool came = got > 0 && (message.msg_controllen != 0 || (message.msg_flags & MSG_CTRUNC) != 0);
  if (came) OUTBOARD_CHECK(keep_fds(message, static_cast<std::size_t>(got)));
  if (got < 0) {
    // A signal: not tried again here, where the socket's timeout would begin anew.
    if (would_block(errno) || errno == EINTR) return Received::nothing;
    return Error::from_errno("reading from the socket");
  }
  if (got == 0) {
    if (partial()) return Error(ECONNRESET, "the peer closed the connection in the middle of a message");
    return Received::end;
  }
  end_ += static_cast<std::size_t>(got);
  return Received::data;
}

Result<bool> Channel::ready() {
  const std::size_t arrived = end_ - begin_;
  if (!have_header_) {
    give_back();
    if (arrived < header_size) return false;
    std::memcpy(&header_, buffer_.data() + begin_, header_size);
    OUTBOARD_CHECK(check_header(header_, limits_.max_message));
    have_header_ = true;
  }
  return arrived >= header_.msg_size;
}

Message Channel::take() {
  Message message{.header = header_,
                  .payload = Bytes(buffer_.data() + begin_ + header_size, header_.msg_size - header_size)};
  if (fds_belong_to_ == consumed_) {
    message.fds = std::exchange(fds_, {});
    message.fds_lost = std::exchange(fds_lost_, false);
  }
  posted_ = !message.is_reply() && !message.wants_reply();
  begin_ += header_.msg_size;
  consumed_ += header_.msg_size;
  have_header_ = false;
  return message;
}

void Channel::close() {
  drop_waiting();
  outgoing_.close();
  socket_.reset();
}

void Channel::shut_down() {
  drop_waiting();
  ::shutdown(socket_.get(), SHUT_RDWR);
}

void Channel::drop_waiting() {
  fds_.clear();
  outgoing_.clear();
}

}  // namespace outboard::vfio_user
