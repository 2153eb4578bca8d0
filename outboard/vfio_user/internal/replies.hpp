#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/vfio_user/internal/channel.hpp>
#include <outboard/vfio_user/internal/scratch.hpp>

namespace outboard::vfio_user {

/// What a command is answered with.
struct Answer {
  std::vector<std::byte> payload;
  std::vector<int> fds;  ///< the function's
};

/// The replies to a client's commands. Nothing is sent where the client wants no reply, nor after close(). An error that a call
/// returns ends the connection. On the session's loop.
class Replies {
 public:
  Replies(Channel& channel, Log log) : channel_(&channel), log_(std::move(log)) {}

  Status send(const spec::Header& request, Bytes payload, std::span<const int> fds = {});
  /// Replies with `head` and then `size` bytes, which `fill(MutableBytes) -> Status` writes over zeros. With an error of its
  /// own, or without memory for the reply, the command is refused.
  template <typename Fill>
  Status send_filled(const spec::Header& request, Bytes head, std::size_t size, Fill&& fill);
  Status refuse(const spec::Header& request, const Error& error);
  /// One of the two.
  Status answer(const spec::Header& request, const Result<Answer>& result);
  Status answer(const spec::Header& request, const Status& result);

  /// The connection is closed.
  void close() { channel_ = nullptr; }

  /// Bytes of memory that are kept for replies.
  std::size_t scratch_size() const { return scratch_.capacity(); }
  /// Commands without a reply that failed.
  std::uint64_t failed_posted() const { return failed_posted_; }

 private:
  Status begin(const spec::Header& request, Bytes head, std::size_t size);
  Status send_begun(const spec::Header& request, std::span<const int> fds);

  Channel* channel_;  // null once it is closed
  Log log_;
  std::vector<std::byte> scratch_;  // a reply is made here, to be sent in one piece: some clients read it no other way
  std::uint64_t failed_posted_ = 0;
};

template <typename Fill>
Status Replies::send_filled(const spec::Header& request, Bytes head, std::size_t size, Fill&& fill) {
  const ScratchUse use(scratch_);
  if (auto begun = begin(request, head, size); !begun) return refuse(request, begun.error());
  if (auto filled = fill(MutableBytes(scratch_).last(size)); !filled) return refuse(request, filled.error());
  return send_begun(request, {});
}

}  // namespace outboard::vfio_user
