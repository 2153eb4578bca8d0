#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <outboard/vfio_user/internal/message_header.hpp>

namespace outboard::vfio_user {

/// The replies that one side of a connection waits for, by message ID, and the late ones: replies to requests that were given
/// up, which are dropped when they come. Used in both directions: by the client for its commands, by the server for its DMA
/// messages. `Request` has the members `id` and `command`. One thread.
template <typename Request>
class AwaitedReplies {
 public:
  /// `peer`: "the server" or "the client", for errors.
  explicit AwaitedReplies(std::string_view peer) : peer_(peer) {}

  /// An ID that no reply to come can have. The caller bounds how many are awaited and late: far fewer than 65,536.
  std::uint16_t new_id() {
    while (is_taken(next_id_)) ++next_id_;
    return next_id_++;
  }
  /// The ID of a message that is not answered.
  std::uint16_t posted_id() { return next_id_++; }

  void reserve(std::size_t count) { awaited_.reserve(count); }
  void add(Request request) { awaited_.push_back(std::move(request)); }
  /// In the order of add().
  const std::vector<Request>& awaited() const { return awaited_; }
  bool awaits(std::uint16_t id) const { return std::ranges::find(awaited_, id, &Request::id) != awaited_.end(); }
  /// Requests that were given up and are still unanswered.
  std::size_t late() const { return late_.size(); }

  /// The request that a reply answers, until the next call; null for a late reply, which has come now. EPROTO: it answers
  /// nothing, or another command than its request's.
  Result<const Request*> find(const spec::Header& reply) {
    const auto request = std::ranges::find(awaited_, reply.msg_id, &Request::id);
    if (request != awaited_.end()) {
      if (static_cast<std::uint16_t>(request->command) != reply.command) return other_command();
      return &*request;
    }
    const auto late = std::ranges::find(late_, reply.msg_id, &Late::id);
    if (late == late_.end()) return Error(EPROTO, peer_ + " sent a reply that answers nothing");
    if (static_cast<std::uint16_t>(late->command) != reply.command) return other_command();
    late_.erase(late);
    return nullptr;
  }
  /// What find() has found is no longer awaited: it is the caller's to complete.
  Request take(const Request* found) {
    const auto at = awaited_.begin() + (found - awaited_.data());
    Request request = std::move(*at);
    awaited_.erase(at);
    return request;
  }

  /// The requests for which `matches(request)` is true are the caller's to complete; their replies are late from now on.
  template <typename Matches>
  std::vector<Request> give_up(Matches matches) {
    std::vector<Request> given_up;
    std::erase_if(awaited_, [&](Request& request) {
      if (!matches(std::as_const(request))) return false;
      late_.push_back({request.id, request.command});
      given_up.push_back(std::move(request));
      return true;
    });
    return given_up;
  }
  /// The connection has ended: all requests are the caller's to complete, and nothing is late.
  std::vector<Request> end() {
    late_.clear();
    return std::exchange(awaited_, {});
  }

 private:
  struct Late {
    std::uint16_t id;
    spec::Command command;
  };

  bool is_taken(std::uint16_t id) const { return awaits(id) || std::ranges::find(late_, id, &Late::id) != late_.end(); }
  Error other_command() const {
    return Error(EPROTO, peer_ + " sent a reply for another command than the one it answers");
  }

  std::string peer_;
  std::vector<Request> awaited_;
  std::vector<Late> late_;
  std::uint16_t next_id_ = 1;
};

}  // namespace outboard::vfio_user
