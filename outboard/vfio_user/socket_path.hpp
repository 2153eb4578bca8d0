#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include <outboard/base/fd.hpp>

namespace outboard::vfio_user {

/// Who is at the other end of a UNIX socket.
struct Peer {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;

  /// "process 4711 (qemu-system-x86) of user 1000". Printable, though a process chooses its own name.
  std::string describe() const;
};

Result<Peer> peer_of(const UniqueFd& socket);

/// A listening socket at a path, and the right to it: a lock on PATH.lock is held as long as the socket lives, so two
/// servers that start at once cannot take the path from each other, and the next one knows that this one has died. Only who
/// may write to the lock file can lock it, and that is the server's user. The file also says whom the server serves, for a
/// client of that user that is refused. Move-only.
class ListeningSocket {
 public:
  /// Takes the right to the path; nothing can connect yet. A dead server's socket is removed. EADDRINUSE: a live server has
  /// the path, or something that is no socket lies there. EACCES: the lock file belongs to another user.
  static Result<ListeningSocket> reserve(const std::string& path);
  /// Makes the socket appear at the path: whoever finds it there can connect. `mode`: its permissions (who may write may
  /// connect); by default those the umask leaves. EADDRINUSE: something has come to the path since reserve(); it stays.
  Status open(std::optional<mode_t> mode);
  /// Takes over a socket that listens already; EINVAL when it is none.
  static Result<ListeningSocket> adopt(UniqueFd socket);

  /// Removes the path, if it is still ours, and the lock file.
  ~ListeningSocket();
  ListeningSocket(ListeningSocket&& other) noexcept;
  ListeningSocket& operator=(ListeningSocket&&) = delete;

  int fd() const { return socket_.get(); }
  bool listens() const { return socket_.valid(); }
  /// Leaves word whom the server serves now.
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

/// Gives the socket at `path` its permissions; else false, and errno. EEXIST: something else lies there. A link is not followed,
/// since whoever may write to the directory could have put it in the socket's place.
bool set_socket_mode(const std::string& path, mode_t mode);

/// Whom the server at `path` serves, as it has noted; nothing where it notes nothing.
std::optional<std::string> noted_client(const std::string& path);

}  // namespace outboard::vfio_user
