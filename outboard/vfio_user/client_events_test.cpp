#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include <outboard/testing/manual_loop.hpp>
#include <tests/support/vfio_user_client_fixture.hpp>

// What a server tells of: errors and unplug requests.

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
using testing::joined;
using ClientRows = testing::VfioUserClientTest;

TEST_F(ClientRows, ErrorAndUnplugEventsComeThroughTheLoop) {
  reply_version();
  reply_info();
  reply_regions();
  for (std::uint32_t index = 0; index < 5; ++index) reply_irq(index, 1);
  client_ = std::move(make().value());
  while (server_.receive()) {
  }
  testing::ManualLoop loop;
  reply(Command::device_set_irqs, 17, {});
  reply(Command::device_set_irqs, 18, {});
  ASSERT_TRUE(client_->attach(loop));
  const auto error_fd = server_.receive();
  const auto request_fd = server_.receive();
  ASSERT_TRUE(error_fd && request_fd);
  ASSERT_EQ(error_fd->fds.size(), 1u);
  EXPECT_EQ(error_fd->at<abi::IrqSet>().index, 3u);
  std::vector<pci::Event> events;
  client_->on_event([&events](pci::Event event) { events.push_back(event); });
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(request_fd->fds[0].get(), &one, 8), 8);
  loop.run_until_idle();
  ASSERT_EQ(::write(error_fd->fds[0].get(), &one, 8), 8);
  loop.run_until_idle();
  EXPECT_EQ(events, (std::vector{pci::Event::unplug_requested, pci::Event::error}));
  client_.reset();
}

/// A client whose server can tell of errors and unplug requests.
class ClientIsTold : public ClientRows {
 protected:
  void SetUp() override {
    reply_version();
    reply_info();
    reply_regions();
    for (std::uint32_t index = 0; index < 5; ++index) reply_irq(index, 1);
    client_ = std::move(make().value());
    while (server_.receive()) {
    }
    reply(Command::device_set_irqs, 17, {});
    reply(Command::device_set_irqs, 18, {});
    ASSERT_TRUE(client_->attach(loop_));
    error_ = server_.receive().value();
    request_ = server_.receive().value();
    loop_.run_until_idle();
  }
  void TearDown() override { client_.reset(); }
  /// An error and an unplug request, at once.
  void tell_of_both() {
    const std::uint64_t one = 1;
    for (const Message* each : {&error_, &request_}) EXPECT_EQ(::write(each->fds.at(0).get(), &one, 8), 8);
  }

  testing::ManualLoop loop_;
  Message error_, request_;
  std::vector<pci::Event> told_;
};

TEST_F(ClientIsTold, AHandlerMayDestroyTheClient) {
  client_->on_event([this](pci::Event event) {
    client_.reset();
    told_.push_back(event);
  });
  tell_of_both();
  loop_.run_until_idle();
  EXPECT_EQ(told_, std::vector{pci::Event::error}) << "and of nothing more";
}

TEST_F(ClientIsTold, AHandlerThatDestroysTheClientTakesItsMemoryBackFirst) {
  reply(Command::dma_map, 19, {});
  ASSERT_TRUE(client_->dma().allocate(4096));
  ASSERT_TRUE(server_.receive());
  client_->on_event([this](pci::Event) {
    reply(Command::dma_unmap, 20, joined(spec::DmaUnmap{.argsz = 24, .flags = 0, .address = 0, .size = 0}));
    client_.reset();
  });
  tell_of_both();
  loop_.run_until_idle();
  const auto last = server_.receive();
  ASSERT_TRUE(last);
  EXPECT_EQ(static_cast<Command>(last->header.command), Command::dma_unmap);
}

TEST_F(ClientIsTold, ARevokingHandlerMayDestroyTheClientWhenItIsGone) {
  client_->on_event([this](pci::Event event) {
    told_.push_back(event);
    if (event == pci::Event::error) client_->revoke();
    if (event == pci::Event::gone) client_.reset();
  });
  tell_of_both();
  loop_.run_until_idle();
  EXPECT_EQ(told_, (std::vector{pci::Event::error, pci::Event::gone}));
  EXPECT_EQ(client_, nullptr);
}

TEST_F(ClientIsTold, AHandlerMaySetAnother) {
  client_->on_event([this, captured = std::make_unique<int>(1)](pci::Event) {
    client_->on_event([this](pci::Event event) { told_.push_back(event); });
    *captured = 2;
  });
  tell_of_both();
  loop_.run_until_idle();
  EXPECT_EQ(told_, std::vector{pci::Event::unplug_requested});
}

TEST_F(ClientRows, AskingForEventsDoesNotWait) {
  std::string logged;
  options_.log = Log([&logged](Level, std::string_view line) { logged += line; });
  options_.timeout = std::chrono::milliseconds(50);
  reply_version();
  reply_info();
  reply_regions();
  for (std::uint32_t index = 0; index < 5; ++index) reply_irq(index, 1);
  client_ = std::move(make().value());
  while (server_.receive()) {
  }
  ASSERT_TRUE(client_->process());
  const auto error_fd = server_.receive();
  const auto request_fd = server_.receive();
  ASSERT_TRUE(error_fd && request_fd);
  EXPECT_EQ(error_fd->at<abi::IrqSet>().index, 3u);
  EXPECT_EQ(request_fd->at<abi::IrqSet>().index, 4u);
  EXPECT_EQ(logged, "");
  server_.reply_error(*error_fd, ENOTSUP);
  server_.reply(*request_fd, {});
  ASSERT_TRUE(client_->process());
  EXPECT_NE(logged.find("no events"), std::string::npos);
  next_id_ = 19;
  EXPECT_TRUE(alive());
}

}  // namespace
}  // namespace outboard::vfio_user
