#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/vfio_user/protocol.hpp>

namespace outboard::vfio_user {

/// One whole message. Owns the descriptors that came with it; what nobody takes is closed.
struct Message {
  spec::Header header{};
  Bytes payload;  ///< in the channel's buffer: until its next ready() or receive()
  std::vector<UniqueFd> fds;
  /// More descriptors came than the channel takes, or this process could not hold them. None are left in `fds`.
  bool fds_lost = false;

  bool is_reply() const { return (header.flags & spec::flag::type_mask) == spec::flag::reply; }
  bool wants_reply() const { return (header.flags & spec::flag::no_reply) == 0; }
};

/// Whether it pays to look for more messages than one: where the peer posts them, many may wait. Each look that finds only
/// one makes the next look come later. One thread.
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

/// Framing and descriptors over a connected UNIX stream socket, for either end. One recvmsg for a register access; where many
/// messages wait, about a thousand bytes of them at once. One sendmsg for a message. Nothing is allocated in the steady state;
/// what a long message took is given back after it. One thread.
///
/// Descriptors belong to the message that they were sent with. A send that brings descriptors has one message, or part of one:
/// for which of several they are cannot be known, and the others would go on without, so the connection ends (EPROTO). Only those
/// before the last one may be there if they have less than 36 bytes, as none has that takes descriptors: the last one has them
/// then. Of a send of more than 2,240 bytes (about 36 KiB, unless the sender has lowered SO_SNDBUF), the kernel may show no more
/// than the beginning: so descriptors with more than 2,048 bytes end the connection too, but with a reply that is sent alone.
///
/// The kernel tells no sends apart that are received at once, as those of the first 48 bytes are. Thus descriptors that come
/// with the body of a message of at most 48 bytes are the message's own where all of it waits already; and descriptors that come
/// with the first 12 bytes or fewer of a header end the connection where a message of 36 bytes or more waits before it.
///
/// A byte that is sent out of band (MSG_OOB) is data like any other. What else the kernel may add to a message (credentials, a
/// pidfd) is switched off, also where the socket is from a listening one that asks for it.
///
/// An Error from any call is the end of the connection: what follows in the stream can no longer be trusted.
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

  /// Receives the rest of a message that has begun, else the next ones: no more than a thousand bytes of them, so that a
  /// caller who does this once for each turn of its loop is fair to others. Only when ready() has said no. `end`: the peer
  /// has closed, between two messages. `nothing`: nothing came in time, or a signal ended the wait. ECONNRESET: it closed in
  /// the middle of a message. EPROTO: descriptors came with bytes from the middle of one, or with several. What the system call
  /// says otherwise.
  Result<Received> receive(Wait wait);

  /// Whether a whole message has arrived; take() then yields it. EPROTO: the header is none (size, type).
  Result<bool> ready();
  /// Of the message that is ready.
  const spec::Header& front() const { return header_; }
  Message take();

  /// Bytes of memory that are kept for what comes.
  std::size_t buffer_size() const { return buffer_.capacity(); }

  /// Bytes of an incomplete message are here.
  bool partial() const { return begin_ != end_; }
  /// Bytes taken so far; tells whether messages have come since.
  std::uint64_t consumed() const { return consumed_; }

  /// Sends a message made of two pieces; `fds` (the caller's) go with its first byte. What the socket does not take at
  /// once is kept, and goes with flush(). ENOBUFS: max_queued is exceeded.
  Status send(Bytes head, Bytes tail = {}, std::span<const int> fds = {});
  /// Sends what was kept, as far as the socket takes it.
  Status flush();
  std::size_t queued() const { return queued_; }
  /// Descriptors that wait with it: each is one of this process.
  std::size_t queued_fds() const { return queued_fds_; }
  /// Bytes that the socket has taken so far.
  std::uint64_t sent() const { return sent_; }

  /// Closes the socket and every descriptor that waits.
  void close();
  /// Ends the connection, and closes every descriptor that waits; the socket stays, and is readable from then on.
  void shut_down();

 private:
  struct Outgoing {
    std::vector<std::byte> bytes;
    std::size_t sent = 0;
    std::vector<UniqueFd> fds;
  };

  void give_back();
  /// What becomes of a send that has more bytes than are asked for.
  enum class Longer : std::uint8_t { is_cut, is_left };
  struct Waiting {
    ssize_t size = 0;  // 0: the peer has closed; -1: errno says why
    bool descriptors = false;  // they come with it, to its end
  };

  void make_room(std::size_t wanted);
  Result<Received> receive_some(Wait wait);
  ssize_t receive_bytes(msghdr& message, std::size_t size, Longer longer, Wait wait);
  Waiting peek(std::size_t size, Wait wait);
  ssize_t receive_after_a_look(msghdr& message, Wait wait);
  std::size_t rest_of_first(std::size_t seen);
  Status keep_fds(msghdr& message, std::size_t size);
  ssize_t write_pieces(Bytes head, Bytes tail, std::span<const int> fds) const;
  Result<std::size_t> write_some(Bytes head, Bytes tail, std::span<const int> fds);
  void drop_waiting();
  Status keep(Bytes head, Bytes tail, std::size_t done, std::span<const int> fds);

  UniqueFd socket_;
  Limits limits_;

  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0, end_ = 0;  // what has arrived and is not taken
  std::uint64_t consumed_ = 0;
  std::size_t plain_ = 0;  // of what is being received: so many bytes were seen to come without descriptors
  bool have_header_ = false;
  spec::Header header_{};
  std::vector<UniqueFd> fds_;  // of a message that is not taken yet
  bool fds_lost_ = false;
  std::uint64_t fds_belong_to_ = 0;  // the place in the stream where that message begins

  bool posted_ = false;  // the last message that was taken
  LookAhead look_ahead_;

  std::deque<Outgoing> queue_;
  std::size_t queued_ = 0, queued_fds_ = 0;
  std::uint64_t sent_ = 0;
};

}  // namespace outboard::vfio_user
