// The permissions of a socket, on a kernel that lacks fchmodat2(), under a filter that denies it, and without /proc.

#include <outboard/vfio_user/internal/socket_path.hpp>

#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>

#include <gtest/gtest.h>

#include <tests/support/denied_calls.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::vfio_user {
namespace {

const long fchmodat2 = *testing::recent_call("fchmodat2");

class SocketMode : public ::testing::Test {
 protected:
  mode_t mode_of(const std::string& name) const {
    struct stat status{};
    EXPECT_EQ(::stat(dir_.path(name).c_str(), &status), 0);
    return status.st_mode & 0777;
  }
  /// A listening socket whose permissions were asked for, and what became of them.
  mode_t mode_of_new_socket(mode_t mode) const {
    auto socket = ListeningSocket::reserve(dir_.path("s"), TimePoint());
    EXPECT_TRUE(socket);
    const Status opened = socket->open(mode);
    EXPECT_TRUE(opened) << opened.error().message();
    return opened ? mode_of("s") : 0;
  }

  testing::TempDir dir_;
};

/// Runs `body` in a child that has no /proc; what it returns, or -1 where there can be no such child.
int without_proc(const std::function<int()>& body) {
  constexpr int impossible = 255;
  const pid_t child = ::fork();
  if (child == 0) {
    // Without privileges, it is root in a user namespace of its own.
    if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) ::_exit(impossible);
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) ::_exit(impossible);
    if (::mount("none", "/proc", "tmpfs", 0, nullptr) != 0) ::_exit(impossible);
    ::_exit(body());
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  return WEXITSTATUS(status) == impossible ? -1 : WEXITSTATUS(status);
}

TEST_F(SocketMode, IsWhatWasAskedForWithoutFchmodat2) {
  EXPECT_EQ(mode_of_new_socket(0660), 0660U);
  for (const int error : {ENOSYS, EPERM})
    testing::with_calls_denied({fchmodat2}, error, [this] { EXPECT_EQ(mode_of_new_socket(0620), 0620U); });
}

TEST_F(SocketMode, IsWhatWasAskedForWithoutFchmodat2AndProc) {
  for (const int error : {ENOSYS, EPERM}) {
    const int mode = without_proc([&] {
      if (!testing::deny_calls(std::array{fchmodat2}, error)) return 0;
      return ::access("/proc/self", F_OK) == 0 ? 0 : static_cast<int>(mode_of_new_socket(0620) >> 3);
    });
    if (mode < 0) GTEST_SKIP() << "no mount namespace to be had here";
    EXPECT_EQ(mode << 3, 0620);
  }
}

TEST_F(SocketMode, IsNotGivenToWhatALinkInItsPlaceLeadsTo) {
  const UniqueFd file = dir_.make_file("theirs", 0);
  ASSERT_EQ(::symlink("theirs", dir_.path("s").c_str()), 0);
  const auto is_refused = [this] {
    EXPECT_FALSE(set_socket_mode(dir_.path("s"), 0666));
    EXPECT_EQ(errno, EEXIST);
    EXPECT_EQ(mode_of("theirs"), 0600U);
  };
  is_refused();
  for (const int error : {ENOSYS, EPERM}) testing::with_calls_denied({fchmodat2}, error, is_refused);
}

}  // namespace
}  // namespace outboard::vfio_user
