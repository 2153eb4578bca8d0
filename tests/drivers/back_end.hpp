#pragma once

#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/pci/handle.hpp>
#include <tests/support/temp_dir.hpp>

/// Where the devices of the driver tests are. The list of tests is the same for every back end; what differs is the target
/// that each device is opened by:
///
///   driver_tests --back-end local          edu, blk and example in this process (the default)
///   driver_tests --back-end vfio-user      the same, each behind a socket, on a thread of its own
///   driver_tests --edu vfio:0000:00:04.0 --blk vfio:0000:00:05.0 --report /dev/ttyS1
///
/// With a target for a device, only the devices that have one are tested. What is on a disk is overwritten. --report: each
/// test is a line `CASE name ok`, or `CASE name fail TEXT`, as tests/system/harness.py reads them.
namespace outboard::drivers {

/// A kind of device that there are tests for.
enum class Kind : std::uint8_t { edu, blk, example };
std::string_view name_of(Kind kind);
/// For GoogleTest, which otherwise shows a parameter's bytes.
void PrintTo(Kind kind, std::ostream* out);

/// Takes the words above out of the command line. False: a word is wrong, and it has been said which.
bool take_arguments(int& argc, char** argv);
/// "" where --report was not given.
const std::string& report_file();

/// The kinds of device that this run has.
std::vector<Kind> kinds();
/// `kind` where this run has it, and nothing else: for a suite of one kind of device.
std::vector<Kind> only(Kind kind);

/// A device, and the handle it is driven by. Made anew for each test.
class Opened {
 public:
  explicit Opened(Kind kind);
  ~Opened();
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;

  pci::Handle& handle() { return *handle_; }
  bool open() const { return handle_ != nullptr; }
  /// Another user of the same device. For a device in this process there is none: it is the one's who made it.
  Result<std::unique_ptr<pci::Handle>> open_again() const;
  /// Closes it and opens it again: the device goes on, its driver is new.
  void reopen();
  bool is_local() const { return target_.starts_with("local:"); }

 private:
  class Server;
  std::string target_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<pci::Handle> handle_;
};

/// What the suites share: the device is there, or the test has failed.
class DriverTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override { ASSERT_TRUE(opened_.open()); }
  pci::Handle& handle() { return opened_.handle(); }
  Opened& opened() { return opened_; }

 private:
  Opened opened_{GetParam()};
};

/// "edu", "blk": the end of a test's name.
std::string test_name(const ::testing::TestParamInfo<Kind>& info);

/// For the message of an assertion: `ASSERT_TRUE(done) << why(done)`.
std::string why(const auto& result) { return result.has_value() ? std::string() : result.error().message(); }
/// 0, or the error's code.
int code_of(const auto& result) { return result.has_value() ? 0 : result.error().code(); }

}  // namespace outboard::drivers
