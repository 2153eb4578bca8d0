#include <outboard/vfio_user/received_eventfd.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <string_view>

namespace outboard::vfio_user {
namespace {

bool is_eventfd(int fd) {
  std::array<char, 32> target{};
  const auto length = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), target.data(), target.size());
  if (length >= 0) return std::string_view(target.data(), static_cast<std::size_t>(length)) == "anon_inode:[eventfd]";
  struct stat status{};  // without /proc: at least no file, device, pipe or socket
  return ::fstat(fd, &status) == 0 && (status.st_mode & S_IFMT) == 0;
}

}  // namespace

Result<EventFd> adopt_eventfd(UniqueFd fd) {
  if (!is_eventfd(fd.get())) return Error(EINVAL, "a file descriptor that came is not an eventfd");
  return EventFd::adopt(std::move(fd));
}

}  // namespace outboard::vfio_user
