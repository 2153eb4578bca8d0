// A file as a back end on a kernel that lacks a system call, and under a seccomp filter that denies it.

#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/storage/raw_file.hpp>
#include <tests/support/denied_calls.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

struct Denial {
  const char* name;
  long call;
  int error;
};

class DeniedStorage : public ::testing::TestWithParam<Denial> {
 protected:
  void without(const std::function<void()>& body) {
    testing::with_calls_denied({GetParam().call}, GetParam().error, body);
  }
  Result<std::unique_ptr<RawFile>> open(Loop& loop, Engine engine, bool direct = false) {
    const Log log([this](Level, std::string_view line) { logged_ += std::string(line) + "\n"; });
    return RawFile::open(loop, {.path = dir_.path("disk.raw"), .direct = direct, .engine = engine}, log);
  }
  /// Writes, flushes and reads; what is read.
  static std::byte round_trip(Reactor& loop, RawFile& disk, std::byte value) {
    alignas(4096) std::array<std::byte, 4096> out{}, in{};
    out.fill(value);
    const iovec from{out.data(), out.size()}, to{in.data(), in.size()};
    finish(loop, disk, [&](auto done) { disk.write(4096, std::span(&from, 1), std::move(done)); });
    finish(loop, disk, [&](auto done) { disk.flush(std::move(done)); });
    finish(loop, disk, [&](auto done) { disk.read(4096, std::span(&to, 1), std::move(done)); });
    EXPECT_EQ(in, out);
    return in[0];
  }

  testing::TempDir dir_;
  UniqueFd file_ = dir_.make_file("disk.raw", 1 << 20);
  std::string logged_;

 private:
  template <typename Start>
  static void finish(Reactor& loop, RawFile& disk, Start start) {
    std::optional<int> error;
    start([&](int code) { error = code; });
    disk.submit();
    while (!error) ASSERT_TRUE(loop.run_once(std::chrono::seconds(1)));
    EXPECT_EQ(*error, 0);
  }
};

INSTANTIATE_TEST_SUITE_P(, DeniedStorage, ::testing::ValuesIn([] {
                           std::vector<Denial> all;
                           for (const auto& call : testing::recent_calls()) {
                             all.push_back({call.name.data(), call.number, ENOSYS});
                             all.push_back({call.name.data(), call.number, EPERM});
                           }
                           return all;
                         }()),
                         [](const auto& denial) {
                           return std::string(denial.param.name) +
                                  (denial.param.error == ENOSYS ? "_ENOSYS" : "_EPERM");
                         });

TEST_P(DeniedStorage, AnImageIsReadAndWritten) {
  without([this] {
    for (const Engine engine : {Engine::automatic, Engine::pool}) {
      for (const bool direct : {false, true}) {
        const auto loop = Reactor::create().value();
        const auto disk = open(*loop, engine, direct);
        ASSERT_TRUE(disk) << disk.error().message();
        EXPECT_EQ(round_trip(*loop, **disk, std::byte{7}), std::byte{7});
      }
    }
  });
}

TEST_P(DeniedStorage, WhereIoUringCannotBeHadThatIsSaid) {
  if (std::string_view(GetParam().name).find("io_uring") == std::string_view::npos) return;
  without([this] {
    const auto loop = Reactor::create().value();
    const auto wanted = open(*loop, Engine::io_uring);
    ASSERT_FALSE(wanted.has_value());
    EXPECT_NE(wanted.error().message().find("io_uring is not available here"), std::string::npos)
        << wanted.error().message();
    ASSERT_TRUE(open(*loop, Engine::automatic));
    EXPECT_NE(logged_.find("io_uring is not available here"), std::string::npos) << logged_;
  });
}

class UnreadableEventFd : public DeniedStorage {};
INSTANTIATE_TEST_SUITE_P(, UnreadableEventFd,
                         ::testing::Values(Denial{"read", SYS_read, EPERM}, Denial{"read", SYS_read, ENOSYS}),
                         [](const auto& denied) { return denied.param.error == EPERM ? "EPERM" : "ENOSYS"; });

// That it cannot be drained must not keep the loop awake.
TEST_P(UnreadableEventFd, LetsTheLoopOfAPoolSleep) {
  const auto loop = Reactor::create().value();
  const auto disk = open(*loop, Engine::pool).value();
  testing::with_calls_denied({SYS_read, SYS_preadv2}, GetParam().error, [&] {
    EXPECT_EQ(round_trip(*loop, *disk, std::byte{7}), std::byte{7});
    int passes = 0;
    while (passes < 100 && loop->run_once(Duration(0)).value()) ++passes;
    EXPECT_LT(passes, 5);
  });
}

}  // namespace
}  // namespace outboard::storage
