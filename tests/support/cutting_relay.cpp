#include <tests/support/cutting_relay.hpp>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <gtest/gtest.h>

namespace outboard::testing {
namespace {

/// What can arrive with one message: by Linux.
constexpr std::size_t max_fds = 253;

bool send_all(int to, const std::byte* bytes, std::size_t size, msghdr& message) {
  for (std::size_t done = 0; done < size;) {
    iovec piece{const_cast<std::byte*>(bytes) + done, size - done};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    const ssize_t sent = ::sendmsg(to, &message, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    done += static_cast<std::size_t>(sent);
    message.msg_control = nullptr;
    message.msg_controllen = 0;
  }
  return true;
}

}  // namespace

CuttingRelay::CuttingRelay(UniqueFd server, std::size_t bytes) : server_(std::move(server)), left_(bytes) {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  client_.reset(ends[0]);
  thread_ = std::thread([this, client = UniqueFd(ends[1])]() mutable { run(std::move(client)); });
}

CuttingRelay::~CuttingRelay() {
  client_.reset();
  wait();
}

std::size_t CuttingRelay::wait() {
  if (thread_.joinable()) thread_.join();
  return passed_;
}

void CuttingRelay::run(UniqueFd client) {
  std::array<pollfd, 2> ends{pollfd{client.get(), POLLIN, 0}, pollfd{server_.get(), POLLIN, 0}};
  bool open = true;
  while (open && left_ != 0 && ::poll(ends.data(), ends.size(), -1) > 0) {
    if (ends[0].revents != 0) open = pass(client, server_);
    if (open && left_ != 0 && ends[1].revents != 0) open = pass(server_, client);
  }
  client.reset();
  ::shutdown(server_.get(), SHUT_WR);
  std::array<std::byte, 4096> rest;
  while (::read(server_.get(), rest.data(), rest.size()) > 0) {
  }
}

bool CuttingRelay::pass(const UniqueFd& from, const UniqueFd& to) {
  std::array<std::byte, 65536> bytes;
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(max_fds * sizeof(int))> control;
  iovec piece{bytes.data(), std::min(bytes.size(), left_)};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t got = ::recvmsg(from.get(), &message, MSG_CMSG_CLOEXEC);
  if (got <= 0) return false;
  const bool has_fds = message.msg_controllen != 0;
  const bool sent = send_all(to.get(), bytes.data(), static_cast<std::size_t>(got), message);
  if (has_fds) {
    const auto* const header = reinterpret_cast<const cmsghdr*>(control.data());
    for (std::size_t at = CMSG_LEN(0); at + sizeof(int) <= header->cmsg_len; at += sizeof(int)) {
      int fd = -1;
      std::memcpy(&fd, control.data() + at, sizeof fd);
      ::close(fd);
    }
  }
  left_ -= static_cast<std::size_t>(got);
  passed_ += static_cast<std::size_t>(got);
  return sent;
}

}  // namespace outboard::testing
