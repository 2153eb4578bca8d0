// What a program that gives its server no log finds on stderr.

#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tests/support/vfio_user_server_fixture.hpp>

namespace outboard::vfio_user {
namespace {

using ::testing::AllOf;
using ::testing::ExitedWithCode;
using ::testing::HasSubstr;
using ::testing::Not;

// Each of these is the main() of such a program.

int serve_a_function_that_logs() {
  const testing::TempDir dir;
  const auto server = Server::listen(dir.path("s"), [](Loop& loop, Log log) -> Result<std::unique_ptr<pci::Function>> {
    log.error("the device broke");
    log.warning("the device is slow");
    return testing::PlainFunction::factory({})(loop, std::move(log));
  });
  return server ? 0 : 1;
}

/// Its client's memory might shrink, and nobody has installed the fault guard.
int refuse_memory() {
  const testing::TempDir dir;
  testing::ManualLoop loop;
  const auto server = Server::listen(dir.path("s"), testing::PlainFunction::factory({}), {.loop = &loop});
  auto peer = testing::VfioUserPeer::connect_to(dir.path("s"));
  peer.send_version("{}");
  const UniqueFd file = testing::make_memfd(0x10000);
  const spec::DmaMap request{.argsz = 32, .flags = 3, .offset = 0, .address = 0, .size = 0x10000};
  peer.send(spec::Command::dma_map, testing::joined(request), {.fds = {file.get()}});
  loop.run_until_idle();
  return server ? 0 : 1;
}

int run_on_a_loop_of_someone_else() {
  const testing::TempDir dir;
  testing::ManualLoop loop;
  auto server = Server::listen(dir.path("s"), testing::PlainFunction::factory({}), {.loop = &loop});
  return server->run();
}

class ServerLogDeathTest : public ::testing::Test {
 protected:
  ServerLogDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(ServerLogDeathTest, ErrorsOfTheDeviceReachStderrUnlessToldOtherwise) {
  EXPECT_EXIT(std::exit(serve_a_function_that_logs()), ExitedWithCode(0),
              AllOf(HasSubstr("outboard: error: the device broke\n"), Not(HasSubstr("slow"))));
}

TEST_F(ServerLogDeathTest, WhyMemoryIsRefusedReachesStderrUnlessToldOtherwise) {
  EXPECT_EXIT(std::exit(refuse_memory()), ExitedWithCode(0),
              AllOf(HasSubstr("outboard: error: "), HasSubstr("install_fault_guard()")));
}

TEST_F(ServerLogDeathTest, WhyTheServerDoesNotRunReachesStderrUnlessToldOtherwise) {
  EXPECT_EXIT(std::exit(run_on_a_loop_of_someone_else()), ExitedWithCode(1),
              HasSubstr("outboard: error: the server runs on a loop of someone else's"));
}

}  // namespace
}  // namespace outboard::vfio_user
