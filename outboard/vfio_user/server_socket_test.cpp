#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <future>

#include <outboard/base/internal/wait.hpp>
#include <outboard/vfio_user/client.hpp>
#include <outboard/vfio_user/internal/socket_path.hpp>
#include <tests/support/denied_calls.hpp>
#include <tests/support/vfio_user_server_fixture.hpp>

// The socket: who has it, what is left of it, who may use it.

namespace outboard::vfio_user {
namespace {

using testing::PlainFunction;

class ServerSocket : public testing::VfioUserServerTest {
 protected:
  Result<Server> another(Duration path_timeout = {}) {
    return Server::listen(path(), PlainFunction::factory({}), {.loop = &loop_, .path_timeout = path_timeout});
  }
  bool exists(const std::string& what) const { return ::access(what.c_str(), F_OK) == 0; }
  /// A socket at the path with nobody behind it, as a server that was killed leaves it.
  void leave_dead_socket() const { const UniqueFd socket = listening(); }
  UniqueFd listening() const {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path().copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(socket.get(), 1), 0);
    return socket;
  }
};

TEST_F(ServerSocket, IsRemovedAtTheEnd) {
  serve();
  EXPECT_TRUE(exists(path()));
  server_.reset();
  EXPECT_FALSE(exists(path()));
  EXPECT_FALSE(exists(path() + ".lock"));
}

TEST_F(ServerSocket, OfALiveServerIsRefused) {
  serve();
  const auto second = another();
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), EADDRINUSE);
  EXPECT_EQ(second.error().subject(), path());
  EXPECT_FALSE(second.error().cure().empty());
  Peer peer = client();
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerSocket, OfAnotherLiveServerIsRefused) {
  const UniqueFd other = listening();
  EXPECT_EQ(another().error().code(), EADDRINUSE);
  EXPECT_TRUE(exists(path()));
}

// A process that was killed keeps its descriptors until its memory is gone.
TEST_F(ServerSocket, OfAServerThatIsGoingIsWaitedFor) {
  leave_dead_socket();
  dir_.make_file("s.lock", 0);
  ASSERT_EQ(::chmod((path() + ".lock").c_str(), 0600), 0);
  UniqueFd going(::open((path() + ".lock").c_str(), O_RDWR | O_CLOEXEC));
  struct flock whole{};
  whole.l_type = F_WRLCK;
  ASSERT_EQ(::fcntl(going.get(), F_OFD_SETLK, &whole), 0);
  const UniqueFd attempts(::inotify_init1(IN_CLOEXEC));
  ASSERT_GE(::inotify_add_watch(attempts.get(), (path() + ".lock").c_str(), IN_OPEN), 0);
  auto next = std::async(std::launch::async, [this] { return another(std::chrono::seconds(60)); });
  for (int looks = 0; looks < 4; ++looks) {  // two for each attempt: the lock, and whom the server serves
    ASSERT_TRUE(wait_readable(attempts.get(), Clock::system().now() + std::chrono::seconds(30)))
        << "no look but the first";
    inotify_event look{};
    ASSERT_GT(::read(attempts.get(), &look, sizeof look), 0);
  }
  going.reset();
  const auto server = next.get();
  EXPECT_TRUE(server) << server.error().message();
}

TEST_F(ServerSocket, OfADeadServerIsReplaced) {
  leave_dead_socket();
  ASSERT_TRUE(exists(path()));
  Peer peer = client();
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerSocket, LeftWithItsLockFileByADeadServerIsReplaced) {
  leave_dead_socket();
  dir_.make_file("s.lock", 10);
  Peer peer = client();
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerSocket, IsKeptByALockThatOnlyItsUserCanTake) {
  const std::string lock = path() + ".lock";
  // What an earlier release left, which everybody could read, and so lock.
  dir_.make_file("s.lock", 10);
  ASSERT_EQ(::chmod(lock.c_str(), 0644), 0);
  const UniqueFd reader(::open(lock.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(::flock(reader.get(), LOCK_EX | LOCK_NB), 0);
  struct flock shared{};
  shared.l_type = F_RDLCK;
  ASSERT_EQ(::fcntl(reader.get(), F_OFD_SETLK, &shared), 0);

  serve();

  struct stat status{};
  ASSERT_EQ(::stat(lock.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  const UniqueFd again(::open(lock.c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_NE(::fcntl(again.get(), F_OFD_SETLK, &shared), 0);
  EXPECT_EQ(another().error().code(), EADDRINUSE);
}

TEST_F(ServerSocket, AppearsWhenItListens) {
  const UniqueFd watch(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  ASSERT_GE(::inotify_add_watch(watch.get(), dir_.path().c_str(), IN_CREATE | IN_MOVED_TO), 0);
  const auto server = Server::listen(path(),
                                     [&](Loop& loop, Log log) -> Result<std::unique_ptr<pci::Function>> {
                                       EXPECT_FALSE(exists(path())) << "the device is not made yet";
                                       return PlainFunction::factory({})(loop, std::move(log));
                                     },
                                     {.loop = &loop_, .log = {}});
  ASSERT_TRUE(server) << server.error().message();
  alignas(inotify_event) std::array<char, 4096> events{};
  const auto size = ::read(watch.get(), events.data(), events.size());
  bool appeared = false;
  for (ssize_t at = 0; at < size;) {
    const auto* event = reinterpret_cast<const inotify_event*>(events.data() + at);
    if (std::string_view(event->name) == "s") {
      EXPECT_EQ(event->mask & IN_CREATE, 0u) << "bound in place: it is there before it listens";
      appeared = true;
    }
    at += static_cast<ssize_t>(sizeof *event + event->len);
  }
  EXPECT_TRUE(appeared);
  EXPECT_FALSE(exists(path() + ".new"));
}

std::vector<long> without_links() {
  std::vector<long> calls{SYS_renameat2, SYS_linkat};
#ifdef SYS_link
  calls.push_back(SYS_link);  // older machines have both
#endif
  return calls;
}

// While the device is made (an image is waited for, say), whoever may write to the directory can put something there.
TEST_F(ServerSocket, DoesNotReplaceWhatHasComeToThePathMeanwhile) {
  const auto listen = [this] {
    return Server::listen(path(),
                          [&](Loop& loop, Log log) -> Result<std::unique_ptr<pci::Function>> {
                            dir_.make_file("s", 10);
                            return PlainFunction::factory({})(loop, std::move(log));
                          },
                          {.loop = &loop_, .log = {}, .path_timeout = {}});
  };
  const auto expect_refused = [&] {
    const auto server = listen();
    ASSERT_FALSE(server);
    EXPECT_EQ(server.error().code(), EADDRINUSE);
    EXPECT_FALSE(server.error().cure().empty());
    struct stat found{};
    ASSERT_EQ(::stat(path().c_str(), &found), 0);
    EXPECT_TRUE(S_ISREG(found.st_mode));
    EXPECT_EQ(found.st_size, 10);
    EXPECT_FALSE(exists(path() + ".new"));
    ASSERT_EQ(::unlink(path().c_str()), 0);
  };
  expect_refused();
  for (const int error : {ENOSYS, EINVAL, EPERM}) {
    testing::with_calls_denied({SYS_renameat2}, error, expect_refused);
    testing::with_calls_denied(without_links(), error, expect_refused);
  }
}

TEST_F(ServerSocket, AppearsThoughRenamingWithoutReplacingIsUnsupported) {
  const auto appears = [this] {
    const auto server = Server::listen(path(), PlainFunction::factory({}), {.loop = &loop_, .log = {}});
    ASSERT_TRUE(server) << server.error().message();
    EXPECT_TRUE(Peer::connect_to(path()).socket());
    EXPECT_FALSE(exists(path() + ".new"));
  };
  for (const int error : {ENOSYS, EINVAL, EPERM}) {
    testing::with_calls_denied({SYS_renameat2}, error, appears);
    EXPECT_FALSE(exists(path()));
    testing::with_calls_denied(without_links(), error, appears);
    EXPECT_FALSE(exists(path()));
  }
}

TEST_F(ServerSocket, LeftHalfMadeByADeadServerIsReplaced) {
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (path() + ".new").copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  Peer peer = client();
  EXPECT_TRUE(alive(peer));
}

TEST_F(ServerSocket, HasAPathOfAnyLengthThatASocketCanHave) {
  const std::string longest = dir_.path(std::string(107 - dir_.path().size() - 1, 'x'));
  ASSERT_EQ(longest.size(), 107u);
  const auto server = Server::listen(longest, PlainFunction::factory({}), {.loop = &loop_, .log = {}});
  ASSERT_TRUE(server) << server.error().message();
  Peer peer = Peer::connect_to(longest);
  peer.send_version(usual_json);
  pump();
  EXPECT_TRUE(peer.receive());
}

// A security module, a filter or a lack of memory: the connection stays, and keeps the socket readable.
TEST_F(ServerSocket, WhoseClientsCannotBeAcceptedIsLookedAtOnceASecond) {
  for (const int error : {EACCES, EPERM, ENOMEM, ENOSYS, EMFILE}) {
    testing::with_calls_denied({SYS_accept4}, error, [this] {
      unsigned lines = 0;
      const Log log([&lines](Level level, std::string_view) { lines += level == Level::error ? 1U : 0U; });
      testing::ManualLoop loop;
      const auto server = Server::listen(path(), PlainFunction::factory({}), {.loop = &loop, .log = log});
      ASSERT_TRUE(server) << server.error().message();
      const Peer peer = Peer::connect_to(path());
      unsigned busy = 0;
      for (int turn = 0; turn < 100; ++turn) busy += loop.run_once() ? 1U : 0U;
      ASSERT_EQ(busy, 1U);
      EXPECT_EQ(lines, 1U);
      loop.advance(std::chrono::seconds(1));
      EXPECT_EQ(lines, 2U);
    });
  }
}

TEST_F(ServerSocket, WhoseClientCouldNotBeAcceptedTakesItLater) {
  serve();
  Peer peer = Peer::connect_to(path());
  rlimit saved{};
  ::getrlimit(RLIMIT_NOFILE, &saved);
  rlimit tight = saved;
  tight.rlim_cur = 4;  // below what is open
  ::setrlimit(RLIMIT_NOFILE, &tight);
  unsigned busy = 0;
  for (int turn = 0; turn < 100; ++turn) busy += loop_.run_once() ? 1U : 0U;
  ::setrlimit(RLIMIT_NOFILE, &saved);
  EXPECT_EQ(busy, 1U);
  loop_.advance(std::chrono::seconds(1));
  peer.send_version(usual_json);
  pump();
  const auto reply = peer.receive();
  EXPECT_TRUE(reply && reply->error() == 0);
}

TEST_F(ServerSocket, DoesNotAppearWhereDescriptorsWouldRunOut) {
  rlimit saved{};
  ::getrlimit(RLIMIT_NOFILE, &saved);
  rlimit tight = saved;
  tight.rlim_cur = testing::open_fds() + 200;
  ::setrlimit(RLIMIT_NOFILE, &tight);
  const auto many = Server::listen(path(), PlainFunction::factory({.msix_vectors = 2000}), {.loop = &loop_, .log = {}});
  const bool appeared = exists(path());
  const auto few = Server::listen(path(), PlainFunction::factory({.msix_vectors = 10}), {.loop = &loop_, .log = {}});
  ::setrlimit(RLIMIT_NOFILE, &saved);
  ASSERT_FALSE(many);
  EXPECT_EQ(many.error().code(), EMFILE);
  EXPECT_FALSE(many.error().cure().empty());
  EXPECT_FALSE(appeared);
  EXPECT_TRUE(few) << few.error().message();
}

/// Two servers in a process with room for what is set aside for both servers' clients, 32 descriptors that the program keeps,
/// and no hundred more.
class TwoServers : public ServerSocket {
 protected:
  void SetUp() override {
    serve({.msix_vectors = 100});
    peer_ = client();
    enable(peer_);
    for (int i = 0; i < 8; ++i) waiting_.push_back(connect());
    ::getrlimit(RLIMIT_NOFILE, &saved_);
    rlimit tight = saved_;
    tight.rlim_cur = testing::open_fds() + 32 + 2 * 140;
    ::setrlimit(RLIMIT_NOFILE, &tight);
  }
  void TearDown() override { ::setrlimit(RLIMIT_NOFILE, &saved_); }

  void set(std::uint32_t first, const std::vector<int>& fds) {
    const auto set = vfio_abi::IrqSet{.argsz = 20, .flags = 0x24, .index = 2, .start = first, .count = 16};
    ASSERT_EQ(error_of(peer_, Command::device_set_irqs, testing::joined(set), {.fds = fds}), 0);
  }
  void bind_all() {
    for (std::uint32_t first = 0; first < 96; first += 16) {
      const UniqueFd eventfd(::eventfd(0, EFD_CLOEXEC));
      set(first, std::vector<int>(16, eventfd.get()));
    }
  }
  Result<Server> the_other() {
    return Server::listen(dir_.path("other"), PlainFunction::factory({.msix_vectors = 100}),
                          {.loop = &loop_, .log = {}});
  }

  Peer peer_;
  std::vector<Peer> waiting_;
  rlimit saved_{};
};

TEST_F(TwoServers, TheSecondServesThoughTheFirstsClientHoldsItsDescriptors) {
  bind_all();
  const auto other = the_other();
  EXPECT_TRUE(other) << other.error().message();
}

TEST_F(TwoServers, TheSecondServesThoughTheFirstKeepsUnboundVectors) {
  bind_all();
  for (std::uint32_t first = 0; first < 96; first += 16) set(first, {});
  const auto other = the_other();
  EXPECT_TRUE(other) << other.error().message();
}

TEST_F(TwoServers, TheSecondServesThoughTheFirstKeepsALostClientsDescriptors) {
  bind_all();
  peer_.close();
  pump();
  const auto other = the_other();
  EXPECT_TRUE(other) << other.error().message();
}

TEST_F(TwoServers, TheSecondIsRefusedWhereTheProgramHasTheDescriptors) {
  bind_all();
  std::vector<UniqueFd> open;
  for (int i = 0; i < 100; ++i) open.emplace_back(::eventfd(0, EFD_CLOEXEC));
  EXPECT_EQ(the_other().error().code(), EMFILE);
}

TEST_F(ServerSocket, ThatIsSomethingElseIsLeftAlone) {
  dir_.make_file("s", 10);
  EXPECT_EQ(another().error().code(), EADDRINUSE);
  EXPECT_TRUE(exists(path()));
}

TEST_F(ServerSocket, ThatSomeoneElsePutInOurPlaceIsNotRemoved) {
  serve();
  ASSERT_EQ(::unlink(path().c_str()), 0);
  const UniqueFd other = listening();
  server_.reset();
  EXPECT_TRUE(exists(path()));
}

TEST_F(ServerSocket, InADirectoryThatIsNotThereSaysSo) {
  const auto server = Server::listen(dir_.path("no/s"), PlainFunction::factory({}), {.loop = &loop_});
  ASSERT_FALSE(server);
  EXPECT_EQ(server.error().code(), ENOENT);
  EXPECT_FALSE(server.error().cure().empty());
}

TEST_F(ServerSocket, WithAPathTooLongSaysSo) {
  const auto server = Server::listen(dir_.path(std::string(200, 'x')), PlainFunction::factory({}), {.loop = &loop_});
  EXPECT_EQ(server.error().code(), ENAMETOOLONG);
  EXPECT_EQ(Client::connect(std::string(200, 'x')).error().code(), ENAMETOOLONG);
}

TEST_F(ServerSocket, HasThePermissionsThatWereAskedFor) {
  server_options_.socket_mode = 0660;
  serve();
  struct stat status{};
  ASSERT_EQ(::stat(path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0660u);
}

TEST_F(ServerSocket, IsNotLeftWhenTheFunctionCannotBeMade) {
  const auto server = Server::listen(
      path(), [](Loop&, Log) -> Result<std::unique_ptr<pci::Function>> { return Error(ENODEV, "no such disk"); },
      {.loop = &loop_});
  EXPECT_EQ(server.error().code(), ENODEV);
  EXPECT_FALSE(exists(path()));
}

TEST_F(ServerSocket, ThatListensAlreadyIsAdopted) {
  auto server = Server::adopt(listening(), PlainFunction::factory({}, &function_), {.loop = &loop_});
  ASSERT_TRUE(server) << server.error().message();
  server_.emplace(std::move(*server));
  Peer peer = client();
  EXPECT_TRUE(alive(peer));
  server_.reset();
  EXPECT_TRUE(exists(path()));  // it is somebody else's
}

TEST_F(ServerSocket, ThatDoesNotListenIsNotAdopted) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(Server::adopt(std::move(socket), PlainFunction::factory({}), {.loop = &loop_}).error().code(), EINVAL);
  EXPECT_EQ(Server::adopt(dir_.make_file("f", 1), PlainFunction::factory({}), {.loop = &loop_}).error().code(), EINVAL);
}

TEST_F(ServerSocket, TellsWhoIsConnected) {
  serve();
  EXPECT_FALSE(server_->client());
  Peer peer = client();
  ASSERT_TRUE(server_->client());
  EXPECT_EQ(server_->client()->pid, ::getpid());
  EXPECT_EQ(server_->client()->uid, ::getuid());
  ASSERT_TRUE(noted_client(path()));
  peer.close();
  pump();
  EXPECT_FALSE(server_->client());
  EXPECT_FALSE(noted_client(path()));
}

TEST_F(ServerSocket, RunsInSomeoneElsesLoopByItsDescriptor) {
  auto server = Server::listen(path(), PlainFunction::factory({}, &function_));
  ASSERT_TRUE(server);
  EXPECT_GE(server->fd(), 0);
  Peer peer = Peer::connect_to(path());
  peer.send_version(usual_json);
  std::optional<Message> reply;
  const auto watch = loop_.watch(server->fd(), Ready::readable, [&](Ready) { EXPECT_TRUE(server->process()); });
  loop_.run_until([&] { return (reply = peer.receive()).has_value(); });
  EXPECT_EQ(reply->error(), 0);
}

// Of the client that is served, and of one that waits to be refused.
TEST_F(ServerSocket, VU89_AByteOutOfBandLetsTheLoopSleep) {
  auto server = Server::listen(path(), PlainFunction::factory({}, &function_));
  ASSERT_TRUE(server);
  const auto sleeps = [&server] {
    pollfd state{.fd = server->fd(), .events = POLLIN, .revents = 0};
    for (int turn = 0; turn < 100; ++turn) {
      if (::poll(&state, 1, 0) == 0) return true;
      EXPECT_TRUE(server->process());
    }
    return false;
  };
  Peer peer = Peer::connect_to(path());
  peer.send_version(usual_json);
  ASSERT_TRUE(sleeps());
  ASSERT_TRUE(peer.receive());
  peer.send(Command::device_get_info, {}, {.flags = spec::flag::no_reply});
  ASSERT_TRUE(sleeps());
  if (::send(peer.socket().get(), "x", 1, MSG_OOB) != 1) GTEST_SKIP() << "this kernel has no MSG_OOB for UNIX sockets";
  EXPECT_TRUE(sleeps());

  const Peer second = Peer::connect_to(path());
  ASSERT_EQ(::send(second.socket().get(), "12345", 5, 0), 5);
  ASSERT_EQ(::send(second.socket().get(), "x", 1, MSG_OOB), 1);
  EXPECT_TRUE(sleeps());
}

// Who may connect.

TEST_F(ServerSocket, LetsInWhomTheCredentialsName) {
  const uid_t me = ::getuid();
  const gid_t mine = ::getgid();
  for (const AllowedPeers& allowed :
       {AllowedPeers{}, AllowedPeers{.users = {me + 1, me}}, AllowedPeers{.groups = {mine}},
        AllowedPeers{.users = {me + 1}, .groups = {mine}}}) {
    auto [one, other] = Peer::pair();
    EXPECT_TRUE(allowed.allow(one.socket()));
  }
  for (const AllowedPeers& allowed :
       {AllowedPeers{.users = {me + 1}}, AllowedPeers{.groups = {static_cast<gid_t>(-2)}}}) {
    auto [one, other] = Peer::pair();
    EXPECT_FALSE(allowed.allow(one.socket()));
  }
}

/// A process's groups besides its main one count, too.
TEST_F(ServerSocket, LetsMembersOfAGroupIn) {
  constexpr gid_t another = 54321;
  constexpr int no_right = 77;
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgroups(1, &another) != 0) ::_exit(no_right);
    auto [one, other] = Peer::pair();
    ::_exit(AllowedPeers{.groups = {another}}.allow(one.socket()) ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == no_right) GTEST_SKIP() << "only root can be a member of any group";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(ServerSocket, TellsOthersThatTheyMayNot) {
  auto server = Server::listen(path(), PlainFunction::factory({}, &function_),
                               {.loop = &loop_, .allowed = {.users = {::getuid() + 1}}});
  ASSERT_TRUE(server);
  Peer peer = Peer::connect_to(path());
  peer.send_version(usual_json);
  std::optional<Peer::Message> reply;
  loop_.run_until([&] { return (reply = peer.receive()).has_value(); });
  EXPECT_EQ(reply->error(), EACCES);
  loop_.run_until([&] { return peer.closed(); });
  EXPECT_FALSE(server->client());
}

TEST_F(ServerSocket, OnALoopOfSomeoneElseIsNotRun) {
  serve();
  EXPECT_EQ(server_->run(), 1);
  EXPECT_EQ(server_->fd(), -1);
}

// What a client says about a socket that it cannot use.

TEST_F(ServerSocket, WhereNobodyIsSaysHowToStartAServer) {
  const auto client = Client::connect(path());
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code(), ENOENT);
  EXPECT_EQ(client.error().subject(), "vfio-user:" + path());
  EXPECT_FALSE(client.error().cure().empty());
}

TEST_F(ServerSocket, OfADeadServerIsToldApart) {
  leave_dead_socket();
  EXPECT_EQ(Client::connect(path()).error().code(), ECONNREFUSED);
  dir_.make_file("file", 1);
  EXPECT_EQ(Client::connect(dir_.path("file")).error().code(), ECONNREFUSED);
}

TEST_F(ServerSocket, OfAServerThatDoesNotAnswerIsToldApart) {
  const UniqueFd other = listening();
  EXPECT_EQ(Client::connect(path(), {.timeout = std::chrono::milliseconds(20)}).error().code(), ETIMEDOUT);
}

}  // namespace
}  // namespace outboard::vfio_user
