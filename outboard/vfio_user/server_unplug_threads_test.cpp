// What a server that ends asks of a client that hears of such requests.

#include <poll.h>

#include <thread>

#include <gtest/gtest.h>

#include <outboard/vfio_abi/vfio.hpp>
#include <outboard/vfio_user/server.hpp>
#include <tests/support/plain_function.hpp>
#include <tests/support/temp_dir.hpp>
#include <tests/support/vfio_user_peer.hpp>

namespace outboard::vfio_user {
namespace {

using testing::PlainFunction;
using testing::VfioUserPeer;
using Command = VfioUserPeer::Command;
namespace flag = vfio_abi::irq_set_flag;

constexpr Duration for_long = std::chrono::hours(1);
constexpr int timeout_ms = 30'000;

class ServerUnplug : public ::testing::Test {
 protected:
  void serve(Duration unplug_timeout) {
    auto server = Server::listen(path(), PlainFunction::factory({}), {.unplug_timeout = unplug_timeout});
    ASSERT_TRUE(server) << server.error().message();
    server_.emplace(std::move(*server));
    thread_ = std::thread([this] { status_ = server_->run(); });
    peer_ = VfioUserPeer::connect_to(path());
    peer_.send_version(R"({"capabilities":{"max_msg_fds":16}})");
    ASSERT_EQ(answer(), 0);
  }
  ~ServerUnplug() override {
    if (!thread_.joinable()) return;
    peer_.close();
    end();
  }
  /// The server's exit status.
  int end() {
    server_->stop();
    thread_.join();
    return status_;
  }

  std::string path() const { return dir_.path("s"); }
  int answer() {
    const auto reply = peer_.receive_within(timeout_ms);
    return reply ? reply->error() : -1;
  }
  int set_request_irq(std::uint32_t flags, std::uint32_t count, const std::vector<int>& fds) {
    const vfio_abi::IrqSet set{.argsz = sizeof(vfio_abi::IrqSet),
                               .flags = flags,
                               .index = static_cast<std::uint32_t>(pci::InterruptKind::request),
                               .start = 0,
                               .count = count};
    peer_.send(Command::device_set_irqs, as_bytes_of(set), {.fds = fds});
    return answer();
  }
  void listen_for_requests() {
    ASSERT_EQ(set_request_irq(flag::data_eventfd | flag::action_trigger, 1, {request_.get()}), 0);
  }
  bool asked() const {
    pollfd state{.fd = request_.get(), .events = POLLIN, .revents = 0};
    return ::poll(&state, 1, timeout_ms) == 1;
  }

  testing::TempDir dir_;
  std::optional<Server> server_;
  std::thread thread_;
  int status_ = -1;
  VfioUserPeer peer_;
  EventFd request_ = EventFd::create().value();
};

TEST_F(ServerUnplug, AClientThatHearsRequestsIsAskedAndServedUntilItLeaves) {
  serve(for_long);
  listen_for_requests();
  server_->stop();
  ASSERT_TRUE(asked());

  const spec::RegionAccess access{.offset = 0, .region = pci::region::config, .count = 4};
  peer_.send(Command::region_read, as_bytes_of(access));
  EXPECT_EQ(answer(), 0) << "what the client has to do before it leaves is done";

  peer_.close();
  EXPECT_EQ(end(), 0);
}

TEST_F(ServerUnplug, AClientThatDoesNotLeaveIsWaitedForNoLongerThanTheLimit) {
  serve(std::chrono::milliseconds(1));
  listen_for_requests();
  EXPECT_EQ(end(), 0);
  EXPECT_TRUE(asked());
  EXPECT_TRUE(peer_.closed());
}

// Would end after an hour if the server waited.
TEST_F(ServerUnplug, AClientThatDoesNotHearRequestsIsNotWaitedFor) {
  serve(for_long);
  EXPECT_EQ(end(), 0);
}

TEST_F(ServerUnplug, AClientThatNoLongerHearsRequestsIsNotWaitedFor) {
  serve(for_long);
  listen_for_requests();
  ASSERT_EQ(set_request_irq(flag::data_none | flag::action_trigger, 0, {}), 0);
  EXPECT_EQ(end(), 0);
  EXPECT_EQ(request_.drain(), 0U);
}

TEST_F(ServerUnplug, AClientThatTookItsEventfdBackIsNotWaitedFor) {
  serve(for_long);
  listen_for_requests();
  ASSERT_EQ(set_request_irq(flag::data_eventfd | flag::action_trigger, 1, {}), 0);
  EXPECT_EQ(end(), 0);
  EXPECT_EQ(request_.drain(), 0U);
}

TEST_F(ServerUnplug, NobodyIsAskedWhereNoWaitIsWanted) {
  serve(Duration::zero());
  listen_for_requests();
  EXPECT_EQ(end(), 0);
  EXPECT_EQ(request_.drain(), 0U);
}

}  // namespace
}  // namespace outboard::vfio_user
