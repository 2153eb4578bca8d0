#include <outboard/vfio_user/internal/socket_path.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>

#include <fmt/format.h>

#include <outboard/base/internal/printable.hpp>
#include <outboard/base/internal/wait.hpp>

namespace outboard::vfio_user {
namespace {

constexpr mode_t lock_mode = 0600;

std::string lock_path(const std::string& path) { return path + ".lock"; }

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Error(ENAMETOOLONG, fmt::format("a socket's path has 1 to {} characters", sizeof address.sun_path - 1))
        .on(path);
  }
  std::copy(path.begin(), path.end(), address.sun_path);
  return address;
}

/// Whether the open file is still the one that has this name.
bool still_named(const UniqueFd& file, const std::string& path) {
  struct stat open_one{};
  struct stat named{};
  return ::fstat(file.get(), &open_one) == 0 && ::stat(path.c_str(), &named) == 0 && open_one.st_dev == named.st_dev &&
         open_one.st_ino == named.st_ino;
}

Error in_use(const std::string& path) {
  const auto client = noted_client(path);
  return Error(EADDRINUSE, "the socket is in use by a live server" + (client ? ", which serves " + *client : ""))
      .on(path)
      .cure("end that server, or listen on another path");
}

/// The lock file is another user's, or no file at all.
Error not_ours(const std::string& path, int code) {
  return Error(code, lock_path(path) + " is not a file of this user")
      .on(path)
      .cure(
          "if no server of another user listens there, have that user or root remove both files; or listen on another path");
}

Error cannot_create(const std::string& path) {
  const int code = errno;
  Error error = Error::from_errno("creating the socket").on(path);
  if (code == ENOENT) return std::move(error).cure("create its directory first");
  if (code == EACCES || code == EPERM) return std::move(error).cure("choose a directory that this user may write to");
  return error;
}

Error cannot_lock(const std::string& path) {
  const int code = errno;
  struct stat there{};
  if (code != EACCES || ::lstat(lock_path(path).c_str(), &there) != 0) {
    errno = code;
    return cannot_create(path);
  }
  return not_ours(path, code);
}

/// A lock of the open file that only a descriptor for writing can have: flock() would let whoever may read the file keep
/// the next server away.
bool lock_whole(const UniqueFd& file) {
  struct flock whole{};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  return ::fcntl(file.get(), F_OFD_SETLK, &whole) == 0;
}

/// The server's right to the path. A file that was unlinked between open and lock is no right: another try is made.
Result<UniqueFd> take_lock(const std::string& path) {
  const std::string name = lock_path(path);
  for (int attempt = 0; attempt < 100; ++attempt) {
    UniqueFd lock(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, lock_mode));
    if (!lock) return cannot_lock(path);
    struct stat status{};
    if (::fstat(lock.get(), &status) != 0) return Error::from_errno("examining " + name);
    if (!S_ISREG(status.st_mode) || status.st_uid != ::geteuid()) {
      return not_ours(path, EACCES);
    }
    if ((status.st_mode & ~lock_mode & 0777) != 0) {  // others may have it open, and have locked it for reading
      if (still_named(lock, name) && ::unlink(name.c_str()) != 0) return cannot_create(path);
      continue;
    }
    if (!lock_whole(lock)) {
      if (errno == EAGAIN || errno == EACCES) return in_use(path);
      return Error::from_errno("locking " + name);
    }
    if (still_named(lock, name)) return lock;
  }
  return in_use(path);
}

/// The same; waits until `end` for a server that may be ending.
Result<UniqueFd> take_lock_by(const std::string& path, TimePoint end) {
  constexpr Duration pause = std::chrono::milliseconds(20);
  auto lock = retry_while(is_code(EADDRINUSE), end, pause, "the socket", [&path] { return take_lock(path); });
  if (!lock && lock.error().code() == ECANCELED) return Error(lock.error()).on(path);
  return lock;
}

/// Looks at what lies at the path. The lock is ours, so it is no server of this kind that lives.
Status remove_remains(const std::string& path, const sockaddr_un& address) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) return {};
  if (!S_ISSOCK(status.st_mode)) {
    return Error(EADDRINUSE, "the path is taken by something that is no socket").on(path).cure("choose another path");
  }
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return Error::from_errno("creating a socket");
  const int connected = ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  if (connected == 0 || errno != ECONNREFUSED) return in_use(path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return cannot_create(path);
  return {};
}

/// Renames, over nothing: -1 and EEXIST where there is something.
int rename_to_free(const char* name, const char* path) {
  if (::renameat2(AT_FDCWD, name, AT_FDCWD, path, RENAME_NOREPLACE) == 0) return 0;
  // EINVAL: a file system that cannot (NFS); EPERM: a filter of system calls. A second name does the same in two steps.
  if (errno != ENOSYS && errno != EINVAL && errno != EPERM) return -1;
  if (::link(name, path) == 0) return ::unlink(name);
  if (errno == EEXIST) return -1;
  // Neither is to be had. What appears at the path in this moment is lost.
  struct stat status{};
  if (::lstat(path, &status) == 0) {
    errno = EEXIST;
    return -1;
  }
  return ::rename(name, path);
}

}  // namespace

bool set_socket_mode(const std::string& path, mode_t mode) {
#ifdef SYS_fchmodat2
  constexpr long fchmodat2 = SYS_fchmodat2;
#else
  constexpr long fchmodat2 = 452;  // the number has been the same on all architectures but Alpha
#endif
  if (::syscall(fchmodat2, AT_FDCWD, path.c_str(), mode, AT_SYMLINK_NOFOLLOW) == 0) return true;
  // The system call is new in Linux 6.6. The C library's substitute says the same of a link and of a missing /proc.
  const UniqueFd socket(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat status{};
  if (!socket || ::fstat(socket.get(), &status) != 0) return false;
  if (!S_ISSOCK(status.st_mode)) {
    errno = EEXIST;
    return false;
  }
  if (::chmod(fmt::format("/proc/self/fd/{}", socket.get()).c_str(), mode) == 0) return true;
  // Without /proc there is only what follows a link that has come to the path in this moment.
  return errno == ENOENT && ::chmod(path.c_str(), mode) == 0;
}

Result<ListeningSocket> ListeningSocket::reserve(const std::string& path, TimePoint end) {
  OUTBOARD_TRY(const sockaddr_un address, address_of(path));
  ListeningSocket result;
  OUTBOARD_TRY(result.lock_, take_lock_by(path, end));
  result.path_ = path;
  OUTBOARD_CHECK(remove_remains(path, address));
  return result;
}

/// `name` is where the socket lies until it listens.
Status ListeningSocket::listen_at(const std::string& name, std::optional<mode_t> mode) {
  OUTBOARD_TRY(const sockaddr_un address, address_of(name));
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return Error::from_errno("creating a socket");
  // Before the bind, so that there is no moment in which more may connect than should.
  if (mode) ::fchmod(socket.get(), *mode);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == EADDRINUSE) return Error(EADDRINUSE, name + " is in the way").on(path_).cure("remove it");
    return cannot_create(path_);
  }
  struct stat status{};
  const bool done = ::lstat(name.c_str(), &status) == 0 && S_ISSOCK(status.st_mode) &&
                    (!mode || set_socket_mode(name, *mode)) && ::listen(socket.get(), SOMAXCONN) == 0 &&
                    rename_to_free(name.c_str(), path_.c_str()) == 0;
  if (!done) {
    const Error error = errno == EEXIST ? Error(EADDRINUSE, "something has come to the path since it was looked at")
                                              .on(path_)
                                              .cure("remove it, or choose another path")
                                        : cannot_create(path_);
    ::unlink(name.c_str());
    return error;
  }
  socket_ = std::move(socket);
  device_ = status.st_dev;
  inode_ = status.st_ino;
  return {};
}

Status ListeningSocket::open(std::optional<mode_t> mode) {
  // The lock makes this name ours too; what a server left there that was killed on the way is in the way.
  std::string name = path_ + ".new";
  UniqueFd directory;
  if (!address_of(name)) {
    const std::string parent = std::filesystem::path(path_).parent_path();
    directory.reset(::open(parent.empty() ? "." : parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    struct stat lock{};
    if (!directory || ::fstat(lock_.get(), &lock) != 0) return cannot_create(path_);
    name = fmt::format("/proc/self/fd/{}/.new-{}", directory.get(), lock.st_ino);
  }
  struct stat left{};
  if (::lstat(name.c_str(), &left) == 0 && S_ISSOCK(left.st_mode)) ::unlink(name.c_str());
  return listen_at(name, mode);
}

Result<ListeningSocket> ListeningSocket::adopt(UniqueFd socket) {
  int listening = 0;
  socklen_t size = sizeof listening;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 || listening == 0) {
    return Error(EINVAL, fmt::format("file descriptor {} is not a listening socket", socket.get()))
        .cure("pass a UNIX stream socket that listens, as socket activation does");
  }
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) < 0 ||
      ::fcntl(socket.get(), F_SETFD, FD_CLOEXEC) < 0) {
    return Error::from_errno("setting up the listening socket");
  }
  ListeningSocket result;
  result.socket_ = std::move(socket);
  return result;
}

ListeningSocket::ListeningSocket(ListeningSocket&& other) noexcept
    : socket_(std::move(other.socket_)),
      lock_(std::move(other.lock_)),
      path_(std::exchange(other.path_, {})),
      device_(other.device_),
      inode_(other.inode_) {}

ListeningSocket::~ListeningSocket() {
  if (!lock_) return;
  struct stat status{};
  const bool ours = socket_ && !path_.empty() && ::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ &&
                    status.st_ino == inode_;
  if (ours) ::unlink(path_.c_str());
  // Still under the lock: whoever opened the file before finds, once it has the lock, that the name is gone.
  if (!path_.empty()) ::unlink(lock_path(path_).c_str());
}

void ListeningSocket::note_client(const std::optional<Peer>& client) const {
  if (!lock_) return;
  const std::string note = client ? client->describe() + "\n" : "";
  // Only a help for people: nothing depends on it.
  [[maybe_unused]] const int cut = ::ftruncate(lock_.get(), 0);
  [[maybe_unused]] const auto written = ::pwrite(lock_.get(), note.data(), note.size(), 0);
}

std::optional<std::string> noted_client(const std::string& path) {
  const UniqueFd file(::open(lock_path(path).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  std::array<char, 128> text{};
  const auto size = ::read(file.get(), text.data(), text.size());
  if (size <= 0) return std::nullopt;
  std::string note(text.data(), static_cast<std::size_t>(size));
  note.resize(std::min(note.find('\n'), note.size()));
  if (note.empty()) return std::nullopt;
  // Whoever may write to the directory may have written it.
  return printable(note);
}

}  // namespace outboard::vfio_user
