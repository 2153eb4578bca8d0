#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/vfio_user/internal/message_header.hpp>
#include <outboard/vfio_user/internal/receive_buffer.hpp>
#include <outboard/vfio_user/internal/send_queue.hpp>

namespace outboard::vfio_user {

/// One whole message. Owns the descriptors that came with it; those that are not taken from it are closed.
struct Message {
  spec::Header header{};
  Bytes payload;  ///< in the channel's buffer: until its next ready() or receive()
  std::vector<UniqueFd> fds;
  /// More descriptors came than the channel takes, or this process could not hold them. None are left in `fds`.
  bool fds_lost = false;

  bool is_reply() const { return vfio_user::is_reply(header); }
  bool wants_reply() const { return vfio_user::wants_reply(header); }
};

/// Decides whether to look for more than one message. A peer that posts messages may have sent many. Each look that finds only
/// one postpones the next look. One thread.
class LookAhead {
 public:
  /// Asked before each message that may be followed by others.
  bool is_due() {
    if (left_ == 0) return true;
    --left_;
    return false;
  }
  void found(bool several) {
    pause_ = several ? 0 : std::clamp(2 * pause_, 1u, 16u);
    left_ = pause_;
  }

 private:
  unsigned pause_ = 0, left_ = 0;
};

/// Messages over a connected UNIX stream socket, for client and server. A register access takes one recvmsg; where many
/// messages wait, one recvmsg takes about a thousand bytes of them. A message takes one sendmsg. Nothing is allocated in the
/// steady state; the buffer of a long message is freed after it. One thread.
///
/// Descriptors belong to the message that they were sent with (message_descriptors.hpp). A sender must send a message that
/// brings descriptors by itself: with several messages in one send the owner of the descriptors cannot be known, and the
/// connection ends (EPROTO). Two sends are exempt. Messages of less than 36 bytes, which take no descriptors, may come before
/// the message that takes them. A single reply may have any length; any other send with descriptors must not exceed 2,048
/// bytes, since the kernel may deliver a longer one in pieces.
///
/// The kernel does not separate sends that one recvmsg takes, as it takes the first 48 bytes. So descriptors that come with the
/// body of a message of at most 48 bytes belong to that message if all of it has arrived. Descriptors that come with the first
/// 12 bytes or fewer of a header end the connection if a message of 36 bytes or more waits before it.
///
/// A byte that is sent out of band (MSG_OOB) is data like any other. The kernel adds nothing else to messages: credentials and
/// pidfds are switched off, also where the socket inherits them from its listening socket.
///
/// After an Error from any call the stream cannot be trusted: the caller ends the connection.
class Channel {
 public:
  struct Limits {
    std::size_t max_message = 16 + 16 + spec::default_max_data_xfer_size;  ///< of a received one, header included
    unsigned max_fds = 16;  ///< of a received one, at most 253
    std::size_t max_queued = std::size_t{8} << 20;  ///< bytes that wait because the peer does not read
  };
  enum class Wait : std::uint8_t { no, socket_timeout };  ///< socket_timeout: as long as SO_RCVTIMEO says
  enum class Received : std::uint8_t { data, nothing, end };

  Channel(UniqueFd socket, Limits limits);

  int fd() const { return socket_.get(); }

  /// Receives the rest of a message that has begun, else the next messages: about a thousand bytes of them at most, so that one
  /// call for each turn of a loop is fair to others. Only after ready() has returned false. `end`: the peer has closed the
  /// connection between two messages. `nothing`: nothing came in time, or a signal ended the wait. ECONNRESET: the peer closed
  /// it in the middle of a message. EPROTO: descriptors came with the middle of a message, or with several messages. ENOMEM:
  /// there is no memory for the message. Otherwise the error of the system call.
  Result<Received> receive(Wait wait);

  /// Whether a whole message has arrived, which take() then returns. EPROTO: its header has an impossible size or type.
  Result<bool> ready();
  /// Of the message that is ready.
  const spec::Header& front() const { return header_; }
  Message take();

  /// Bytes of the receive buffer.
  std::size_t buffer_size() const { return buffer_.size(); }

  /// Part of a message has arrived.
  bool partial() const { return begin_ != end_; }
  /// Bytes taken so far; tells whether messages have come since.
  std::uint64_t consumed() const { return consumed_; }

  /// Sends a message in two pieces; `fds` (the caller's) go with its first byte. What the socket does not take at once is kept
  /// for flush(). ENOBUFS: max_queued is exceeded. ENOMEM: there is no memory to keep it.
  Status send(Bytes head, Bytes tail = {}, std::span<const int> fds = {}) { return outgoing_.send(head, tail, fds); }
  /// Sends what was kept, as far as the socket takes it.
  Status flush() { return outgoing_.flush(); }
  std::size_t queued() const { return outgoing_.queued(); }
  /// Descriptors of messages that are kept: each is a descriptor of this process.
  std::size_t queued_fds() const { return outgoing_.queued_fds(); }
  /// Bytes that the socket has taken so far.
  std::uint64_t sent() const { return outgoing_.sent(); }

  /// Closes the socket and the descriptors of messages that are kept or not taken.
  void close();
  /// The same, but the socket stays open: the connection is shut down, and the socket is readable from then on.
  void shut_down();

 private:
  void give_back();
  /// A send that has more bytes than are asked for is received in part, or not at all.
  enum class Longer : std::uint8_t { is_cut, is_left };
  struct Waiting {
    ssize_t size = 0;  // 0: the peer has closed; -1: errno says why
    bool descriptors = false;  // they come with it, to its end
  };

  Status make_room(std::size_t wanted);
  Result<Received> receive_some(Wait wait);
  ssize_t receive_bytes(msghdr& message, std::size_t size, Longer longer, Wait wait);
  Waiting peek(std::size_t size, Wait wait);
  ssize_t receive_after_a_look(msghdr& message, Wait wait);
  std::size_t rest_of_first(std::size_t seen);
  Status keep_fds(msghdr& message, std::size_t size);
  void drop_waiting();

  UniqueFd socket_;
  Limits limits_;

  ReceiveBuffer buffer_;
  std::size_t begin_ = 0, end_ = 0;  // bytes that have arrived and are not taken
  std::uint64_t consumed_ = 0;
  std::size_t plain_ = 0;  // of what is being received: so many bytes were seen to come without descriptors
  bool have_header_ = false;
  spec::Header header_{};
  std::vector<UniqueFd> fds_;  // of a message that is not taken yet
  bool fds_lost_ = false;
  std::uint64_t fds_belong_to_ = 0;  // the place in the stream where that message begins

  bool posted_ = false;  // the last message that was taken
  LookAhead look_ahead_;

  SendQueue outgoing_;
};

}  // namespace outboard::vfio_user
