#include <outboard/vfio_user/internal/send_queue.hpp>

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstring>
#include <string>

#include <outboard/base/internal/system_calls.hpp>
#include <outboard/base/internal/try_resize.hpp>
#include <outboard/vfio_user/internal/message_descriptors.hpp>

namespace outboard::vfio_user {

ssize_t SendQueue::write_pieces(Bytes head, Bytes tail, std::span<const int> fds) const {
  std::array<iovec, 2> pieces{iovec{const_cast<std::byte*>(head.data()), head.size()},
                              iovec{const_cast<std::byte*>(tail.data()), tail.size()}};
  DescriptorBuffer control;
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = tail.empty() ? 1 : 2;
  if (!fds.empty()) attach_fds(message, control, fds);
  return system_calls().send(socket_, message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/// How many bytes the socket took; 0 when it is full.
Result<std::size_t> SendQueue::write_some(Bytes head, Bytes tail, std::span<const int> fds) {
  ssize_t taken = 0;
  do {
    taken = write_pieces(head, tail, fds);
  } while (taken < 0 && errno == EINTR);
  if (taken < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return std::size_t{0};
    return Error::from_errno("writing to the socket");
  }
  sent_ += static_cast<std::uint64_t>(taken);
  return static_cast<std::size_t>(taken);
}

Status SendQueue::keep(Bytes head, Bytes tail, std::size_t done, std::span<const int> fds) {
  Message rest;
  const std::size_t left = head.size() + tail.size() - done;
  if (queued_ + left > max_queued_) {
    return Error(ENOBUFS, "the peer does not read: " + std::to_string(queued_) + " bytes are waiting for it");
  }
  OUTBOARD_CHECK(try_resize(rest.bytes, head.size() + tail.size()));
  copy_bytes(head, rest.bytes);
  copy_bytes(tail, MutableBytes(rest.bytes).subspan(head.size()));
  rest.sent = done;
  // The descriptors went with the first byte; only what has not begun still needs them.
  for (const int fd : done == 0 ? fds : std::span<const int>{}) {
    UniqueFd borrowed(fd);
    auto copy = borrowed.duplicate();
    [[maybe_unused]] const int still_the_callers = borrowed.release();
    if (!copy) return copy.error();
    rest.fds.push_back(std::move(*copy));
  }
  queued_ += left;
  queued_fds_ += rest.fds.size();
  queue_.push_back(std::move(rest));
  return {};
}

Status SendQueue::send(Bytes head, Bytes tail, std::span<const int> fds) {
  if (fds.size() > spec::kernel_max_fds) return Error(EINVAL, "too many file descriptors for one message");
  std::size_t done = 0;
  if (queue_.empty()) {
    OUTBOARD_TRY(done, write_some(head, tail, fds));
    if (done == head.size() + tail.size()) return {};
  }
  return keep(head, tail, done, fds);
}

Status SendQueue::flush() {
  while (!queue_.empty()) {
    Message& first = queue_.front();
    std::vector<int> fds;
    for (const UniqueFd& fd : first.fds) fds.push_back(fd.get());
    OUTBOARD_TRY(const std::size_t done, write_some(Bytes(first.bytes).subspan(first.sent), {}, fds));
    if (done == 0) return {};
    queued_fds_ -= first.fds.size();
    first.fds.clear();
    first.sent += done;
    queued_ -= done;
    if (first.sent == first.bytes.size()) queue_.pop_front();
  }
  return {};
}

void SendQueue::clear() {
  queue_.clear();
  queued_ = queued_fds_ = 0;
}

void SendQueue::close() {
  clear();
  socket_ = -1;
}

}  // namespace outboard::vfio_user
