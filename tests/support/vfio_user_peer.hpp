#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/vfio_user/protocol.hpp>

namespace outboard::testing {

/// The bytes of some layout structs, one after the other.
template <typename... Parts>
std::vector<std::byte> joined(const Parts&... parts) {
  std::vector<std::byte> all;
  const auto append = [&all](Bytes bytes) { all.insert(all.end(), bytes.begin(), bytes.end()); };
  (append(as_bytes_of(parts)), ...);
  return all;
}

/// `size` bytes that count up from `first`.
std::vector<std::byte> pattern(std::size_t size, unsigned first = 1);

/// How many descriptors this process has open.
std::size_t open_fds();
/// How many of them are eventfds.
std::size_t open_eventfds();

/// One end of a vfio-user connection in the hands of a test: sends whatever the test wants, and takes apart what comes.
/// Failures of the socket itself fail the test by an exception. Calls never wait, but for receive_within().
class VfioUserPeer {
 public:
  using Command = vfio_user::spec::Command;

  struct Message {
    vfio_user::spec::Header header{};
    std::vector<std::byte> payload;
    std::vector<UniqueFd> fds;

    bool is_reply() const { return (header.flags & 0xf) == vfio_user::spec::flag::reply; }
    bool is_error() const { return (header.flags & vfio_user::spec::flag::error) != 0; }
    /// 0 for a reply that is no error.
    int error() const { return is_error() ? static_cast<int>(header.error) : 0; }
    /// The payload's structure at `offset`; zeroes where it is too short.
    template <typename T>
    T at(std::size_t offset = 0) const {
      T value{};
      if (range_within(offset, sizeof(T), payload.size())) std::memcpy(&value, payload.data() + offset, sizeof value);
      return value;
    }
    Bytes data(std::size_t offset) const { return Bytes(payload).subspan(std::min(offset, payload.size())); }
  };

  struct Shape {
    std::uint32_t flags = 0;
    std::optional<std::uint16_t> id = {};  ///< the next one by default
    std::optional<std::uint32_t> size = {};  ///< announced, instead of the true one
    std::uint32_t error = 0;
    std::vector<int> fds = {};
  };

  VfioUserPeer() = default;
  explicit VfioUserPeer(UniqueFd socket);
  /// Connects to a listening socket.
  static VfioUserPeer connect_to(const std::string& path);
  /// Two ends of one connection.
  static std::pair<VfioUserPeer, UniqueFd> pair();

  const UniqueFd& socket() const { return socket_; }
  void close() { socket_.reset(); }

  /// One sendmsg of these bytes. False when the other side is gone or the socket is full.
  bool send_bytes(Bytes bytes, const std::vector<int>& fds = {});
  /// A message; returns its id.
  std::uint16_t send(std::uint16_t command, Bytes payload, const Shape& shape);
  std::uint16_t send(Command command, Bytes payload = {}) { return send(command, payload, Shape{}); }
  std::uint16_t send(Command command, Bytes payload, const Shape& shape) {
    return send(static_cast<std::uint16_t>(command), payload, shape);
  }
  /// A message's bytes, for a test that sends them in pieces.
  std::vector<std::byte> message(std::uint16_t command, Bytes payload, const Shape& shape);
  void reply(const Message& to, Bytes payload, const std::vector<int>& fds = {});
  void reply_error(const Message& to, int error);

  /// The next message that has come whole; nothing when there is none.
  std::optional<Message> receive();
  /// The same, waiting for it.
  std::optional<Message> receive_within(int milliseconds);
  /// The other side has closed; what it sent before can still be received.
  bool closed();

  /// VERSION with this JSON (a NUL is added).
  std::uint16_t send_version(const std::string& json, std::uint16_t major = 0, std::uint16_t minor = 0);

 private:
  void fill(bool wait, int milliseconds);

  UniqueFd socket_;
  std::uint16_t next_id_ = 1;
  std::vector<std::byte> buffer_;
  std::vector<UniqueFd> fds_;
  bool end_ = false;
};

}  // namespace outboard::testing
