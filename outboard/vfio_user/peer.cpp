#include <outboard/vfio_user/peer.hpp>

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

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

namespace {

/// All of a process's groups; without a kernel that lists them (before 4.13) the main one.
std::vector<gid_t> groups_of(const UniqueFd& socket, const Peer& peer) {
  std::vector<gid_t> groups(64);
  socklen_t size = 0;
  do {
    size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) == 0) {
      groups.resize(size / sizeof(gid_t));
      break;
    }
    const bool larger = errno == ERANGE && size > groups.size() * sizeof(gid_t);
    groups.resize(larger ? size / sizeof(gid_t) : 0);
  } while (!groups.empty());
  groups.push_back(peer.gid);
  return groups;
}

bool contains(const auto& list, auto value) { return std::ranges::find(list, value) != list.end(); }

}  // namespace

bool AllowedPeers::allow(const UniqueFd& socket) const {
  if (users.empty() && groups.empty()) return true;
  const auto peer = peer_of(socket);
  if (!peer) return false;
  if (contains(users, peer->uid)) return true;
  return !groups.empty() &&
         std::ranges::any_of(groups_of(socket, *peer), [&](gid_t one) { return contains(groups, one); });
}

}  // namespace outboard::vfio_user
