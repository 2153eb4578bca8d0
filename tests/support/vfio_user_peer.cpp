#include <tests/support/vfio_user_peer.hpp>

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <stdexcept>

#include <outboard/base/loop.hpp>

namespace outboard::testing {

namespace spec = vfio_user::spec;

std::vector<std::byte> pattern(std::size_t size, unsigned first) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(first + i);
  return bytes;
}

namespace {
std::vector<std::string> fd_targets() {
  std::vector<std::string> targets;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    targets.push_back(std::filesystem::read_symlink(entry.path(), gone).string());
  }
  return targets;
}

void wait_readable(int fd, int milliseconds) {
  const TimePoint end = Clock::system().now() + std::chrono::milliseconds(milliseconds);
  pollfd state{.fd = fd, .events = POLLIN, .revents = 0};
  while (::poll(&state, 1, milliseconds) < 0 && milliseconds > 0) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::system().now()).count();
    milliseconds = static_cast<int>(std::max<std::int64_t>(left, 0));
  }
}
}  // namespace

std::size_t open_fds() { return fd_targets().size(); }

std::size_t open_eventfds() {
  return static_cast<std::size_t>(std::ranges::count(fd_targets(), "anon_inode:[eventfd]"));
}

VfioUserPeer::VfioUserPeer(UniqueFd socket) : socket_(std::move(socket)) {}

VfioUserPeer VfioUserPeer::connect_to(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    throw std::runtime_error("cannot connect to " + path);
  }
  return VfioUserPeer(std::move(socket));
}

std::pair<VfioUserPeer, UniqueFd> VfioUserPeer::pair() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) throw std::runtime_error("socketpair");
  return {VfioUserPeer(UniqueFd(ends[0])), UniqueFd(ends[1])};
}

bool VfioUserPeer::send_bytes(Bytes bytes, const std::vector<int>& fds) {
  iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * 253)> control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
  }
  return ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(bytes.size());
}

std::vector<std::byte> VfioUserPeer::message(std::uint16_t command, Bytes payload, const Shape& shape) {
  const spec::Header header{
      .msg_id = shape.id.value_or(next_id_),
      .command = command,
      .msg_size = shape.size.value_or(static_cast<std::uint32_t>(sizeof(spec::Header) + payload.size())),
      .flags = shape.flags,
      .error = shape.error};
  if (!shape.id) ++next_id_;
  auto bytes = joined(header);
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  return bytes;
}

std::uint16_t VfioUserPeer::send(std::uint16_t command, Bytes payload, const Shape& shape) {
  const std::uint16_t id = shape.id.value_or(next_id_);
  send_bytes(message(command, payload, shape), shape.fds);
  return id;
}

void VfioUserPeer::reply(const Message& to, Bytes payload, const std::vector<int>& fds) {
  send(to.header.command, payload, {.flags = spec::flag::reply, .id = to.header.msg_id, .fds = fds});
}

void VfioUserPeer::reply_error(const Message& to, int error) {
  send(to.header.command, {},
       {.flags = spec::flag::reply | spec::flag::error,
        .id = to.header.msg_id,
        .error = static_cast<std::uint32_t>(error)});
}

void VfioUserPeer::fill(bool wait, int milliseconds) {
  if (end_ || !socket_) return;
  if (wait) wait_readable(socket_.get(), milliseconds);
  while (true) {
    std::array<std::byte, 65536> bytes;
    iovec piece{bytes.data(), bytes.size()};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * 253)> control{};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0) {
      if (errno != EAGAIN) end_ = true;
      return;
    }
    if (got == 0) {
      end_ = true;
      return;
    }
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.begin() + got);
    for (cmsghdr* one = CMSG_FIRSTHDR(&message); one != nullptr; one = CMSG_NXTHDR(&message, one)) {
      for (std::size_t i = 0; i < (one->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(one) + i * sizeof fd, sizeof fd);
        fds_.emplace_back(fd);
      }
    }
    if (!fds_.empty()) return;  // they belong to the last message so far
  }
}

std::optional<VfioUserPeer::Message> VfioUserPeer::receive_within(int milliseconds) {
  const auto whole = [this] {
    spec::Header header{};
    if (buffer_.size() < sizeof header) return false;
    std::memcpy(&header, buffer_.data(), sizeof header);
    return buffer_.size() >= std::max<std::size_t>(header.msg_size, sizeof header);
  };
  if (!whole()) fill(false, 0);
  while (milliseconds > 0 && !whole() && !end_) fill(true, milliseconds);
  if (!whole()) return std::nullopt;
  Message message;
  std::memcpy(&message.header, buffer_.data(), sizeof message.header);
  const auto end = buffer_.begin() + std::max<std::ptrdiff_t>(message.header.msg_size, sizeof message.header);
  message.payload.assign(buffer_.begin() + sizeof message.header, end);
  buffer_.erase(buffer_.begin(), end);
  if (buffer_.empty()) message.fds = std::exchange(fds_, {});
  return message;
}

std::optional<VfioUserPeer::Message> VfioUserPeer::receive() { return receive_within(0); }

bool VfioUserPeer::closed() {
  fill(false, 0);
  return end_;
}

std::uint16_t VfioUserPeer::send_version(const std::string& json, std::uint16_t major, std::uint16_t minor) {
  auto payload = joined(spec::Version{.major = major, .minor = minor});
  const auto text = std::as_bytes(std::span(json.c_str(), json.size() + 1));
  payload.insert(payload.end(), text.begin(), text.end());
  return send(Command::version, payload);
}

}  // namespace outboard::testing
