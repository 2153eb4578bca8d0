// A server whose device does not come to rest in time, with queues on threads of their own: what these threads use is not
// destroyed before they have ended.

#include <atomic>
#include <thread>

#include <outboard/base/internal/run_on.hpp>
#include <outboard/vduse/server_rig_test.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::vduse {
namespace {

/// What is seen of a device from outside.
struct Seen {
  std::atomic<unsigned> requests{0};
  std::atomic<bool> destroyed{false};
  std::atomic<bool> ran_afterwards{false};
  std::thread::id loop_at_end;  ///< who runs the queue's loop when the device is destroyed
};

/// Its storage hangs: a request stays with it for ever, and its queue's loop goes on looking for the answer.
class HangingDevice final : public virtio::Device {
 public:
  explicit HangingDevice(std::shared_ptr<Seen> seen) : seen_(std::move(seen)) {}
  ~HangingDevice() override {
    seen_->destroyed = true;
    if (loop_ != nullptr) run_on(*loop_, [this] { seen_->loop_at_end = std::this_thread::get_id(); });
  }
  HangingDevice(const HangingDevice&) = delete;
  HangingDevice& operator=(const HangingDevice&) = delete;

  virtio::Identity identity() const override { return {.device_id = 2, .queue_sizes = {16, 16}, .config_size = 16}; }
  Status attach(virtio::Host& host) override {
    host_ = &host;
    return {};
  }
  void handle(virtio::Request request) override {
    loop_ = &host_->queue_loop(request.queue_index());
    look(*loop_, seen_);
    held_.push_back(std::move(request));
    ++seen_->requests;
  }
  void stop_queue(unsigned, virtio::StopMode, Completion done) override { done(); }

 private:
  static void look(Loop& loop, const std::shared_ptr<Seen>& seen) {
    if (seen->destroyed) seen->ran_afterwards = true;
    loop.post([&loop, seen] { look(loop, seen); });
  }

  std::shared_ptr<Seen> seen_;
  virtio::Host* host_ = nullptr;
  Loop* loop_ = nullptr;
  std::vector<virtio::Request> held_;
};

class LateServerTest : public ServerTest {
 protected:
  Result<Server> serve() {
    auto with = options();
    with.threads = 2;
    with.device.core.stop_timeout = std::chrono::milliseconds(1);
    return Server::create([this](Loop&, const Log&) { return std::make_unique<HangingDevice>(seen); }, std::move(with));
  }
  /// A driver whose request the device has.
  void hang(Server& one) {
    auto& loop = dynamic_cast<Reactor&>(one.loop());
    const auto pump = [&loop] { loop.run_once(Duration(0)); };
    ASSERT_NO_FATAL_FAILURE(attach_with_ring(pump));
    driver->chain().readable("data").publish();
    ASSERT_TRUE(kernel->advance(0x0f, pump));
    while (seen->requests == 0) pump();
  }
  void expect_that_nothing_ran_when_it_was_destroyed() const {
    EXPECT_TRUE(seen->destroyed);
    EXPECT_EQ(seen->loop_at_end, std::this_thread::get_id()) << "the thread of the queue had not ended";
    EXPECT_FALSE(seen->ran_afterwards);
  }

  std::shared_ptr<Seen> seen = std::make_shared<Seen>();
};

TEST_F(LateServerTest, DestroyedWhileServingItEndsItsThreadsBeforeTheDevice) {
  {
    auto one = serve();
    ASSERT_TRUE(one) << one.error().message();
    hang(*one);
  }
  EXPECT_TRUE(kernel->attached());
  expect_that_nothing_ran_when_it_was_destroyed();
}

TEST_F(LateServerTest, EndedBySignalItEndsItsThreadsBeforeTheDeviceIsDestroyed) {
  {
    auto one = serve();
    ASSERT_TRUE(one) << one.error().message();
    hang(*one);
    EXPECT_TRUE(run(*one));
    EXPECT_THAT(said(), HasSubstr("requests did not end in time")) << "it was late";
  }
  EXPECT_FALSE(there());
  expect_that_nothing_ran_when_it_was_destroyed();
}

TEST_F(LateServerTest, GivenUpByTheKernelItEndsItsThreadsBeforeTheDevice) {
  {
    auto one = serve();
    ASSERT_TRUE(one) << one.error().message();
    hang(*one);
    kernel->set_status(0x8f);
    kernel->time_out();
    EXPECT_FALSE(one->run([] { return Status(); }));
  }
  expect_that_nothing_ran_when_it_was_destroyed();
}

}  // namespace
}  // namespace outboard::vduse
