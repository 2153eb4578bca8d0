#include <poll.h>

#include <atomic>

#include <gtest/gtest.h>

#include <outboard/pci/local_handle.hpp>
#include <tests/support/idle_function.hpp>
#include <tests/support/plain_function.hpp>

namespace outboard::pci {
namespace {

using testing::PlainFunction;

void wait_readable(const EventFd& fd) {
  pollfd entry{.fd = fd.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&entry, 1, 30'000), 1);
}

class ThreadHandleTest : public ::testing::Test {
 protected:
  void start(PlainFunction::Options options = {}) {
    auto started = LocalHandle::start(PlainFunction::factory(options, &function), {});
    ASSERT_TRUE(started) << started.error().message();
    handle = std::move(*started);
  }
  PlainFunction* function = nullptr;
  std::unique_ptr<LocalHandle> handle;
};

TEST_F(ThreadHandleTest, CallsAreCarriedToTheFunctionsThread) {
  start();
  ASSERT_TRUE(handle->enable_memory());
  const auto bar = handle->bar(0);
  ASSERT_TRUE(bar);
  for (std::uint32_t i = 0; i < 200; ++i) {
    ASSERT_TRUE(bar->write<std::uint32_t>(PlainFunction::scratch_at, i));
    ASSERT_EQ(*bar->read<std::uint32_t>(PlainFunction::scratch_at), i);
  }
  EXPECT_TRUE(handle->reset());
}

TEST_F(ThreadHandleTest, InterruptsArriveFromTheFunctionsThread) {
  start();
  ASSERT_TRUE(handle->enable_bus_master());
  const auto set = handle->enable_interrupts(InterruptKind::msix, 1);
  ASSERT_TRUE(set);
  ASSERT_TRUE(handle->bar(0)->write<std::uint32_t>(PlainFunction::signal_msix_at, 0));
  wait_readable(set->vector(0));
}

TEST_F(ThreadHandleTest, DmaBuffersComeAndGo) {
  start();
  for (int i = 0; i < 20; ++i) {
    auto buffer = handle->dma().allocate(UINT64_C(3) << 20);
    ASSERT_TRUE(buffer) << buffer.error().message();
  }
}

TEST_F(ThreadHandleTest, AFactoryThatFailsEndsTheThread) {
  const auto started =
      LocalHandle::start([](Loop&, Log) -> Result<std::unique_ptr<Function>> { return Error(ENOENT, "no image"); }, {});
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), ENOENT);
}

/// A function whose register calls back into the handle that drives it.
class CallsBack final : public testing::IdleFunction {
 public:
  CallsBack(LocalHandle** handle, std::atomic<int>* seen) : handle_(handle), seen_(seen) {}

 protected:
  Status read_checked(unsigned, std::uint64_t, MutableBytes) override {
    std::byte byte[1];
    *seen_ = (*handle_)->read_region(region::config, 0, byte).error().code();
    *seen_ += (*handle_)->reset().error().code();
    return {};
  }

 private:
  LocalHandle** handle_;
  std::atomic<int>* seen_;
};

TEST(ThreadHandle, ACallFromTheFunctionsOwnThreadIsRefused) {
  LocalHandle* raw_handle = nullptr;
  std::atomic<int> seen{0};
  auto handle = LocalHandle::start(
      [&](Loop&, Log) -> Result<std::unique_ptr<Function>> { return std::make_unique<CallsBack>(&raw_handle, &seen); },
      {});
  ASSERT_TRUE(handle);
  raw_handle = handle->get();
  std::byte byte[1];
  ASSERT_TRUE((*handle)->read_region(0, 0, byte));
  EXPECT_EQ(seen, EDEADLK + EDEADLK);
}

}  // namespace
}  // namespace outboard::pci
