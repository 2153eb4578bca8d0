#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include <outboard/testing/manual_loop.hpp>
#include <tests/support/fake_vfio.hpp>
#include <tests/support/plain_function.hpp>

namespace outboard::testing {

/// A machine with a PlainFunction at 0000:00:04.0, bound to vfio-pci, and what tests do with it. No violation may be left
/// when a test ends.
class VfioHandleTest : public ::testing::Test {
 protected:
  static constexpr pci::Address address{0, 0, 4, 0};
  static constexpr const char* name = "vfio:0000:00:04.0";

  void TearDown() override {
    handle_.reset();
    EXPECT_THAT(kernel_.violations(), ::testing::IsEmpty());
    EXPECT_FALSE(kernel_.in_use(address)) << "the device is still open";
  }

  FakeVfioDevice& add(FakeVfioDevice::Options options = {}, PlainFunction::Options function = {}) {
    auto made = PlainFunction::create(loop_, Log(), function);
    function_ = made->get();
    device_ = &kernel_.add(std::move(options), std::move(*made), [this] { loop_.run_until_idle(); });
    return *device_;
  }
  Result<std::unique_ptr<vfio::Handle>> try_open(vfio::Interface interface = vfio::Interface::automatic) {
    auto options = kernel_.options();
    options.interface.interface = interface;
    options.log = Log([this](Level, std::string_view line) { log_.emplace_back(line); }, Level::debug);
    return vfio::Handle::open(address, options);
  }
  void open(vfio::Interface interface = vfio::Interface::automatic) {
    auto opened = try_open(interface);
    ASSERT_TRUE(opened) << opened.error().message();
    handle_ = std::move(*opened);
    handle_->on_event([this](pci::Event event) { events_.push_back(event); });
  }
  /// The error of an attempt to open it.
  Error refusal(vfio::Interface interface = vfio::Interface::automatic) {
    auto opened = try_open(interface);
    EXPECT_FALSE(opened);
    return opened ? Error(1) : opened.error();
  }
  static std::string all_of(const Error& error) { return error.message() + "\n" + error.cure(); }

  pci::Bar bar() { return handle_->bar(0).value(); }
  std::uint32_t get(std::uint64_t offset) { return bar().read<std::uint32_t>(offset).value(); }
  void put(std::uint64_t offset, std::uint32_t value) { ASSERT_TRUE(bar().write<std::uint32_t>(offset, value)); }
  bool logged(const std::string& text) const {
    return std::ranges::any_of(log_, [&](const std::string& line) { return line.find(text) != std::string::npos; });
  }

  FakeVfio kernel_;
  ManualLoop loop_;
  PlainFunction* function_ = nullptr;
  FakeVfioDevice* device_ = nullptr;
  std::unique_ptr<vfio::Handle> handle_;
  std::vector<pci::Event> events_;
  std::vector<std::string> log_;
};

}  // namespace outboard::testing
