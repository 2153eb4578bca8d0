#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>

namespace outboard::vfio_user {

/// The sending half of a Channel: what the socket does not take at once is kept, with its descriptors, and sent later. One
/// thread.
class SendQueue {
 public:
  /// `socket` stays open as long as anything is sent. `max_queued`: bytes that are kept while the peer does not read.
  SendQueue(int socket, std::size_t max_queued) : socket_(socket), max_queued_(max_queued) {}

  /// A message in two pieces; the caller's `fds` go with its first byte. EINVAL: more descriptors than a message carries.
  /// ENOBUFS: max_queued is exceeded. ENOMEM. What the system call says otherwise.
  Status send(Bytes head, Bytes tail, std::span<const int> fds);
  /// Sends what was kept, as far as the socket takes it.
  Status flush();
  /// Drops what was kept, and closes its descriptors.
  void clear();
  /// The same, before the socket is closed: nothing is sent any more (EBADF).
  void close();

  std::size_t queued() const { return queued_; }
  std::size_t queued_fds() const { return queued_fds_; }
  /// Bytes that the socket has taken so far.
  std::uint64_t sent() const { return sent_; }

 private:
  struct Message {
    std::vector<std::byte> bytes;
    std::size_t sent = 0;
    std::vector<UniqueFd> fds;  // until the first byte is sent
  };

  ssize_t write_pieces(Bytes head, Bytes tail, std::span<const int> fds) const;
  Result<std::size_t> write_some(Bytes head, Bytes tail, std::span<const int> fds);
  Status keep(Bytes head, Bytes tail, std::size_t done, std::span<const int> fds);

  int socket_;
  std::size_t max_queued_;
  std::deque<Message> queue_;
  std::size_t queued_ = 0, queued_fds_ = 0;
  std::uint64_t sent_ = 0;
};

}  // namespace outboard::vfio_user
