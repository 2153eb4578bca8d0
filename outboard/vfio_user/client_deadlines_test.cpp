// Deadlines of a client are points in time: signals do not put them off, and do not end a wait early.

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>

#include <gtest/gtest.h>

#include <outboard/vfio_user/internal/client_socket.hpp>
#include <tests/support/temp_dir.hpp>
#include <tests/support/vfio_user_client_fixture.hpp>

namespace outboard::vfio_user {
namespace {

using namespace std::chrono_literals;

/// Interrupts every system call of this thread that waits, each millisecond. Gives up after a number of signals that no
/// deadline of these tests comes near: by shutting a socket down, which ends the wait with another error.
class SignalStorm {
 public:
  explicit SignalStorm(int socket) {
    left_ = max_signals;
    socket_ = socket;
    struct sigaction action{};
    action.sa_handler = [](int) {
      if (--left_ == 0) ::shutdown(socket_, SHUT_RDWR);
    };
    ::sigaction(SIGALRM, &action, &before_);
    const itimerval often{.it_interval = {.tv_sec = 0, .tv_usec = 1000}, .it_value = {.tv_sec = 0, .tv_usec = 1000}};
    ::setitimer(ITIMER_REAL, &often, nullptr);
  }
  ~SignalStorm() {
    const itimerval off{};
    ::setitimer(ITIMER_REAL, &off, nullptr);
    ::sigaction(SIGALRM, &before_, nullptr);
  }
  SignalStorm(const SignalStorm&) = delete;
  SignalStorm& operator=(const SignalStorm&) = delete;

  static bool gave_up() { return left_ <= 0; }

 private:
  static constexpr int max_signals = 20'000;
  static inline std::atomic<int> left_, socket_;
  struct sigaction before_{};
};

class ClientDeadlines : public testing::VfioUserClientTest {};

TEST_F(ClientDeadlines, VU74_SignalsDoNotPutTheDeadlineOfARequestOff) {
  options_.timeout = 50ms;
  connect();
  const SignalStorm storm(server_.socket().get());
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
  EXPECT_FALSE(SignalStorm::gave_up());
}

// Otherwise a few commands in a row wait for longer than whoever waits for all of them.
TEST_F(ClientDeadlines, AServerThatIsToBeGivenUpGetsOneDeadlineForAllCommands) {
  options_.timeout = 50ms;
  options_.on_timeout = Client::OnTimeout::end;
  connect();
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
  EXPECT_TRUE(client_->gone());
  options_.timeout = std::chrono::minutes(10);
  EXPECT_EQ(error_of(read()), ETIMEDOUT);
}

TEST_F(ClientDeadlines, SignalsDoNotEndAWaitThatIsAnswered) {
  options_.timeout = std::chrono::minutes(10);
  connect();
  const SignalStorm storm(server_.socket().get());
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(alive());
}

/// A server that accepts nobody, and whose backlog is full.
class FullBacklog {
 public:
  explicit FullBacklog(const std::string& path) {
    std::ranges::copy(path, address_.sun_path);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_), 0);
    EXPECT_EQ(::listen(listener_.get(), 0), 0);
    while (one_more()) continue;
  }
  int fd() const { return listener_.get(); }

 private:
  bool one_more() {
    UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::connect(client.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof address_) != 0) return false;
    clients_.push_back(std::move(client));
    return true;
  }
  sockaddr_un address_{.sun_family = AF_UNIX, .sun_path = {}};
  UniqueFd listener_{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  std::vector<UniqueFd> clients_;
};

TEST(ConnectDeadline, SignalsNeitherEndNorPutItOff) {
  const testing::TempDir folder;
  const FullBacklog server(folder.path("socket"));
  const SignalStorm storm(server.fd());
  const auto connected = connect_socket(folder.path("socket"), {.timeout = 50ms});
  ASSERT_FALSE(connected.has_value());
  EXPECT_EQ(connected.error().code(), ETIMEDOUT) << connected.error().message();
  EXPECT_FALSE(SignalStorm::gave_up());
}

}  // namespace
}  // namespace outboard::vfio_user
