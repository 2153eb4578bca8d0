#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include <outboard/base/fd.hpp>
#include <outboard/base/internal/system_calls.hpp>
#include <outboard/testing/simulation.hpp>

namespace outboard::testing {

/// Two sockets that are connected to each other.
inline std::pair<UniqueFd, UniqueFd> make_socket_pair(int flags = 0) {
  int ends[2] = {-1, -1};
  ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0, ends);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// Sends by the system calls that are simulated. The bytes that were taken, or -errno.
inline ssize_t send_to(const UniqueFd& socket, std::string_view text) {
  iovec piece{const_cast<char*>(text.data()), text.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  const ssize_t sent = system_calls().send(socket.get(), message, MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent < 0 ? -errno : sent;
}

/// What has come; "": the other end is closed, or an error, which is stored in `error`.
inline std::string receive_from(const UniqueFd& socket, int flags = MSG_DONTWAIT, int* error = nullptr) {
  std::string text(100, '\0');
  iovec piece{text.data(), text.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  const ssize_t got = system_calls().receive(socket.get(), message, flags);
  if (error != nullptr) *error = got < 0 ? errno : 0;
  text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return text;
}

inline bool never() { return false; }

}  // namespace outboard::testing
