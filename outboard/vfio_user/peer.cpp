#include <outboard/vfio_user/peer.hpp>

#include <sys/socket.h>

#include <fmt/format.h>

#include <outboard/base/internal/process.hpp>

namespace outboard::vfio_user {

std::string Peer::describe() const {
  const std::string name = process_name(pid);
  return fmt::format("process {}{} of user {}", pid, name.empty() ? "" : " (" + name + ")", uid);
}

Result<Peer> peer_of(const UniqueFd& socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return Error::from_errno("asking who has connected");
  }
  return Peer{.pid = credentials.pid, .uid = credentials.uid, .gid = credentials.gid};
}

}  // namespace outboard::vfio_user
