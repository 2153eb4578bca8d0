#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/vfio_user/peer.hpp>

namespace outboard::vfio_user {

/// A listening socket and the lock of its path. The lock on PATH.lock is held while the socket lives: two servers that start at
/// once cannot take the path from each other, and a next server sees that this one has died. Locking needs write permission,
/// which only the server's user has. The file also names the client that is served, for a message to a client that is refused.
/// Move-only.
class ListeningSocket {
 public:
  /// Locks the path; no client can connect yet. A dead server's socket is removed. A process that was killed keeps its
  /// descriptors until its memory is freed, so the calling thread waits for the lock until `end`. EADDRINUSE: a live server has
  /// the path, or the path is not a socket. EACCES: the lock file belongs to another user. ECANCELED: see pause_thread().
  static Result<ListeningSocket> reserve(const std::string& path, TimePoint end);
  /// Makes the socket appear at the path, ready for clients. `mode`: its permissions (connecting needs write permission); by
  /// default those that the umask leaves. EADDRINUSE: a file has appeared at the path since reserve(); it stays.
  Status open(std::optional<mode_t> mode);
  /// Takes over a socket that listens already. EINVAL: it does not.
  static Result<ListeningSocket> adopt(UniqueFd socket);

  /// Removes the path, if it is still ours, and the lock file.
  ~ListeningSocket();
  ListeningSocket(ListeningSocket&& other) noexcept;
  ListeningSocket& operator=(ListeningSocket&&) = delete;

  int fd() const { return socket_.get(); }
  bool listens() const { return socket_.valid(); }
  /// Writes into the lock file which client is served now.
  void note_client(const std::optional<Peer>& client) const;

 private:
  ListeningSocket() = default;
  Status listen_at(const std::string& name, std::optional<mode_t> mode);

  UniqueFd socket_;
  UniqueFd lock_;
  std::string path_;  // empty when the socket was adopted
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

/// Sets the permissions of the socket at `path`; false, with errno: EEXIST if the path is not a socket. A symbolic link is not
/// followed: anybody who may write to the directory could have put it there.
bool set_socket_mode(const std::string& path, mode_t mode);

/// The client of the server at `path`, from its lock file; nothing where the file names none.
std::optional<std::string> noted_client(const std::string& path);

}  // namespace outboard::vfio_user
