#include <tools/outboard/serve/place.hpp>

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <memory>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <outboard/base/internal/wait.hpp>
#include <outboard/base/reactor.hpp>
#include <outboard/targets/device_table.hpp>
#include <tests/support/held_file_system.hpp>
#include <tests/support/temp_dir.hpp>
#include <tools/outboard/serve/pci.hpp>

// How `outboard serve` ends by SIGTERM when something hangs. Each server is a process of its own, with the command's own signals,
// service and bounds; the time that they allow is a second.

namespace outboard::command {
namespace {

using testing::HeldFileSystem;

constexpr Duration timeout = std::chrono::seconds(1);
constexpr Duration limit = std::chrono::seconds(30);  // no test comes near it that passes

/// All that a server does until it ends.
using Serve = std::function<Result<Exit>(Context&)>;
using MakeService = std::function<Result<std::unique_ptr<targets::Service>>(const Log&)>;

/// A device of the command's, from the start to the end. It logs "ready".
Serve disk_of(const MakeService& make, Duration bound) {
  return [make, bound](Context& context) -> Result<Exit> {
    ServePlace place;
    place.end_timeout = bound;
    place.bound_start("disk", context);
    OUTBOARD_TRY(const auto service, make(context.log));
    service->loop().post([&context] { context.log.info("ready"); });
    return place.run(*service, "disk", context);
  };
}

/// Serves in a child process; what it logs comes through a pipe.
class ServerProcess {
 public:
  explicit ServerProcess(const Serve& serve) {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    output_.reset(ends[0]);
    const UniqueFd input(ends[1]);
    pid_ = ::fork();
    if (pid_ == 0) ::_exit(run(serve, input.get()));
  }
  explicit ServerProcess(const MakeService& make, Duration bound = timeout) : ServerProcess(disk_of(make, bound)) {}
  ~ServerProcess() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  void signal(int number) const { ::kill(pid_, number); }
  /// Waits until it has said this.
  bool says(std::string_view words) {
    const TimePoint end = Clock::system().now() + limit;
    while (said_.find(words) == std::string::npos) {
      char more[256];
      if (!wait_readable(output_.get(), end)) return false;
      const ssize_t size = ::read(output_.get(), more, sizeof more);
      if (size <= 0) return false;
      said_.append(more, static_cast<std::size_t>(size));
    }
    return true;
  }
  const std::string& said() const { return said_; }
  bool runs() const { return ::waitpid(pid_, nullptr, WNOHANG) == 0; }
  /// Waits for its end: the exit status; 1000 and more where it was killed.
  int status() {
    int status = -1;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
  }

 private:
  static int run(const Serve& serve, int output) {
    const auto write = [output](Level, std::string_view text) {
      const auto line = fmt::format("{}\n", text);
      static_cast<void>(!::write(output, line.data(), line.size()));
    };
    const auto stop = StopSignal::create().value();
    Context context{Log(write), *stop};
    const auto exit = serve(context);
    return exit && *exit == Exit::done ? 0 : 97;
  }

  UniqueFd output_;
  std::string said_;
  pid_t pid_ = -1;
};

/// A service that is nothing but a loop.
class BareService final : public targets::Service {
 public:
  /// `at_stop` is to stop the loop.
  explicit BareService(std::function<void(Reactor&)> at_stop) : at_stop_(std::move(at_stop)) {}

  std::string where() const override { return "nowhere"; }
  std::string description() const override { return {}; }
  Loop& loop() override { return *loop_; }
  Status reload() override { return {}; }
  using Service::run;
  Status run(std::function<Status()> /*ready*/) override { return loop_->run(); }
  void stop() override { at_stop_(*loop_); }

 private:
  std::function<void(Reactor&)> at_stop_;
  std::unique_ptr<Reactor> loop_ = Reactor::create().value();
  Registration timer_;
};

MakeService bare(std::function<void(Reactor&)> at_stop) {
  return [at_stop](const Log&) {
    return Result<std::unique_ptr<targets::Service>>(std::make_unique<BareService>(at_stop));
  };
}

[[noreturn]] void hang() {
  while (true) ::pause();
}

TEST(EndOfServe, IsQuietWhereNothingHangs) {
  ServerProcess server(bare([](Reactor& loop) { loop.stop(); }));
  ASSERT_TRUE(server.says("ready\n"));
  server.signal(SIGTERM);
  EXPECT_EQ(server.status(), 0);
  EXPECT_EQ(server.said(), "ready\n");
}

TEST(EndOfServe, ComesThoughTheLoopHungBeforeTheSignal) {
  ServerProcess server([](const Log& log) {
    auto service = bare([](Reactor& loop) { loop.stop(); })(log);
    Loop& loop = (*service)->loop();
    loop.post([&loop, log] {
      loop.post([log] {  // after "ready"
        log.info("hangs");
        hang();
      });
    });
    return service;
  });
  ASSERT_TRUE(server.says("hangs"));
  server.signal(SIGTERM);
  EXPECT_TRUE(server.says("the loop is stuck")) << server.said();
  EXPECT_EQ(server.status(), 1);
}

TEST(EndOfServe, ComesThoughTheLoopHangsOnceItHasHeardTheSignal) {
  ServerProcess server(bare([](Reactor&) { hang(); }));
  ASSERT_TRUE(server.says("ready\n"));
  server.signal(SIGTERM);
  EXPECT_TRUE(server.says("the loop is stuck")) << server.said();
  EXPECT_EQ(server.status(), 1);
}

// As a disk on VDUSE does, whose users are waited for. The time is so long that the test's machine may be busy with others.
TEST(EndOfServe, TakesAsLongAsItDoesWhileTheLoopIsAtWork) {
  static constexpr Duration bound = 4 * timeout;
  ServerProcess server(bare([timer = std::make_shared<Registration>()](Reactor& loop) {
                         *timer = loop.after(bound + 2 * timeout, [&loop] { loop.stop(); });
                       }),
                       bound);
  ASSERT_TRUE(server.says("ready\n"));
  server.signal(SIGTERM);
  EXPECT_EQ(server.status(), 0) << server.said();
}

/// A disk whose image is on a file system that holds calls.
class EndOfServedDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = HeldFileSystem::create(1 << 20);
    if (!made) GTEST_SKIP() << made.error().message();
    files = std::move(*made);
  }
  void start() {
    server = std::make_unique<ServerProcess>([this](const Log& log) -> Result<std::unique_ptr<targets::Service>> {
      OUTBOARD_TRY(const auto* const entry, targets::find_device("blk"));
      OptionSet set;
      OUTBOARD_CHECK(set.set("image", files->disk()));
      return targets::serve(*entry, std::move(set), "vfio-user:" + folder.path("socket"), {.log = log});
    });
  }
  bool holding() const {
    const TimePoint end = Clock::system().now() + limit;
    while (files->holding() == 0 && Clock::system().now() < end) ::usleep(1000);
    return files->holding() != 0;
  }

  testing::TempDir folder;
  std::unique_ptr<HeldFileSystem> files;
  std::unique_ptr<ServerProcess> server;
};

TEST_F(EndOfServedDisk, DoesNotWaitForEverForStorageThatDoesNotAnswer) {
  start();
  ASSERT_TRUE(server->says("ready\n")) << server->said();
  files->hold(HeldFileSystem::Call::getattr);
  server->signal(SIGHUP);  // it looks at the size of its image
  ASSERT_TRUE(holding());
  server->signal(SIGTERM);
  EXPECT_TRUE(server->says("the storage has not answered all requests")) << server->said();
  files->release();
  EXPECT_EQ(server->status(), 1);
  EXPECT_FALSE(files->gave_up());
}

TEST_F(EndOfServedDisk, ComesThoughItsStartHangs) {
  files->hold(HeldFileSystem::Call::open);
  start();
  ASSERT_TRUE(holding());
  server->signal(SIGTERM);
  EXPECT_TRUE(server->says("ending although the start is stuck")) << server->said();
  files->release();
  EXPECT_EQ(server->status(), 1);
  EXPECT_FALSE(files->gave_up());
}

// Its device is open by then, which has a bound of its own: what hangs is the file beside the socket.
TEST_F(EndOfServedDisk, ComesThoughTheStartOfAnExportHangs) {
  files->hold(HeldFileSystem::Call::open);
  server = std::make_unique<ServerProcess>([this](Context& context) {
    PciArguments arguments;
    arguments.device.target = "local:blk,ram,size=1M";
    arguments.place.listener = "vfio-user:" + files->disk();
    arguments.place.end_timeout = timeout;
    return serve_pci(arguments, context);
  });
  ASSERT_TRUE(holding());
  server->signal(SIGTERM);
  EXPECT_TRUE(server->says("pci: ending although the start is stuck")) << server->said();
  files->release();
  EXPECT_EQ(server->status(), 1);
  EXPECT_FALSE(files->gave_up());
}

TEST_F(EndOfServedDisk, WaitsForTheKernelToCloseTheImage) {
  start();
  ASSERT_TRUE(server->says("ready\n")) << server->said();
  files->hold(HeldFileSystem::Call::flush);
  server->signal(SIGTERM);
  ASSERT_TRUE(holding());
  EXPECT_TRUE(server->says("all requests are answered")) << server->said();
  EXPECT_TRUE(server->runs());
  files->hold(HeldFileSystem::Call::none);
  files->release();
  EXPECT_EQ(server->status(), 0) << server->said();
  EXPECT_FALSE(files->gave_up());
}

}  // namespace
}  // namespace outboard::command
