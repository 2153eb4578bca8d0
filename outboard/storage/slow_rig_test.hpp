// A back end on storage that takes its time, and the loop that must not wait for it.

#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/storage/raw_file.hpp>
#include <tests/support/held_file_system.hpp>
#include <tests/support/loop_device.hpp>
#include <tests/support/queue_depth.hpp>

namespace outboard::storage {

using outboard::testing::HeldFileSystem;
using outboard::testing::LoopDevice;
using outboard::testing::QueueDepth;
using Call = HeldFileSystem::Call;

template <typename Kind>
class OnSlowStorage : public ::testing::TestWithParam<Kind> {
 protected:
  // Each of these skips the test where there can be no such thing.

  void make_storage(std::uint64_t size) {
    auto made = HeldFileSystem::create(size);
    if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
    storage_ = std::move(*made);
    loop_ = Reactor::create().value();
  }
  /// A block device on its file, gone when nobody has it open.
  void make_device(std::uint64_t size, LoopDevice::Through through = LoopDevice::Through::page_cache) {
    make_storage(size);
    if (this->IsSkipped()) return;
    auto device = LoopDevice::attach(storage_->disk(), 0, through);
    if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
    device_ = std::move(*device);
  }
  void set_queue_depth(unsigned requests) {
    auto depth = QueueDepth::set(device_, requests);
    if (!depth) GTEST_SKIP() << depth.error().message();
    depth_ = std::move(*depth);
  }

  void open(RawFile::Options options) {
    auto opened = RawFile::open(*loop_, std::move(options), Log());
    ASSERT_TRUE(opened) << opened.error().message();
    disk_ = std::move(*opened);
  }
  void TearDown() override {
    if (!storage_) return;
    storage_->release();
    EXPECT_FALSE(storage_->gave_up()) << "a call on the loop has waited for the storage";
    disk_.reset();
  }
  /// After the disk, and all that has the device open.
  void let_device_go() {
    depth_ = {};
    device_.device.reset();
  }

  /// Counts an operation, and that it has ended well.
  Backend::Completion done() {
    ++begun_;
    return [this](int error) { ended_ += error == 0 ? 1U : 0U; };
  }
  /// Shows that the loop does its work.
  void run_loop() {
    bool ran = false;
    const auto timer = loop_->after(std::chrono::milliseconds(1), [&ran] { ran = true; });
    while (!ran) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
  }
  /// Tells of what was begun, and lets the loop do its work.
  void turn() {
    disk_->submit();
    run_loop();
  }
  void wait_until_all_has_ended() {
    while (ended_ != begun_) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
  }

  std::unique_ptr<HeldFileSystem> storage_;
  LoopDevice device_;
  QueueDepth depth_;
  std::unique_ptr<Reactor> loop_;
  std::unique_ptr<RawFile> disk_;
  std::size_t begun_ = 0;
  std::size_t ended_ = 0;
};

}  // namespace outboard::storage
