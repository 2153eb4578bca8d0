#include <outboard/vfio_user/internal/replies.hpp>

#include <outboard/base/internal/try_resize.hpp>
#include <outboard/vfio_user/internal/message_header.hpp>

namespace outboard::vfio_user {

/// ENOMEM.
Status Replies::begin(const spec::Header& request, Bytes head, std::size_t size) {
  const spec::Header header = reply_header(request, head.size() + size);
  // Zeros: what the function does not write is not ours to give away.
  scratch_.clear();
  OUTBOARD_CHECK(try_resize(scratch_, header.msg_size));
  copy_bytes(as_bytes_of(header), scratch_);
  copy_bytes(head, MutableBytes(scratch_).subspan(sizeof header));
  return {};
}

Status Replies::send_begun(const spec::Header& request, std::span<const int> fds) {
  if (channel_ == nullptr || !wants_reply(request)) return {};
  return channel_->send(scratch_, {}, fds);
}

Status Replies::send(const spec::Header& request, Bytes payload, std::span<const int> fds) {
  if (channel_ == nullptr || !wants_reply(request)) return {};
  OUTBOARD_CHECK(begin(request, payload, 0));
  return send_begun(request, fds);
}

Status Replies::refuse(const spec::Header& request, const Error& error) {
  if (channel_ == nullptr) return {};
  if (!wants_reply(request)) {
    ++failed_posted_;
    log_.debug("a posted command {} failed: {}", request.command, error.message());
    return {};
  }
  log_.debug("command {} is refused: {}", request.command, error.message());
  return channel_->send(as_bytes_of(error_header(request, error.code())));
}

Status Replies::answer(const spec::Header& request, const Result<Answer>& result) {
  return result ? send(request, result->payload, result->fds) : refuse(request, result.error());
}

Status Replies::answer(const spec::Header& request, const Status& result) {
  return result ? send(request, {}) : refuse(request, result.error());
}

}  // namespace outboard::vfio_user
