#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>

namespace outboard::vfio_user {

/// The process at the other end of a UNIX socket.
struct Peer {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;

  /// "process 4711 (qemu-system-x86) of user 1000". Printable, though a process chooses its own name.
  std::string describe() const;
};

/// Of a connected socket. The error of the system call.
Result<Peer> peer_of(const UniqueFd& socket);

/// Who may connect, by the credentials that the kernel has of the process that called connect(): one of these users, or a member of
/// one of these groups. Without any: everybody whom the permissions of the socket let in.
struct AllowedPeers {
  std::vector<uid_t> users{};
  std::vector<gid_t> groups{};

  /// False also where the kernel does not say who it is.
  bool allow(const UniqueFd& socket) const;
};

}  // namespace outboard::vfio_user
