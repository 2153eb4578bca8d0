#include <outboard/base/internal/eventfds.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <string>
#include <string_view>

namespace outboard {

bool is_eventfd(int fd) {
  std::array<char, 32> target{};
  const auto length = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), target.data(), target.size());
  if (length >= 0) return std::string_view(target.data(), static_cast<std::size_t>(length)) == "anon_inode:[eventfd]";
  return may_be_eventfd(fd);
}

bool may_be_eventfd(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0 || (status.st_mode & S_IFMT) != 0) return false;
  // An inotify instance has no type either, and is read-only.
  const int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_ACCMODE) == O_RDWR;
}

Result<std::vector<EventFd>> duplicate(const std::vector<EventFd>& eventfds) {
  std::vector<EventFd> copies;
  copies.reserve(eventfds.size());
  for (const EventFd& each : eventfds) {
    OUTBOARD_TRY(EventFd copy, each.duplicate());
    copies.push_back(std::move(copy));
  }
  return copies;
}

}  // namespace outboard
