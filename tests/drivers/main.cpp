// The program of the driver tests: its arguments are those of tests/drivers/back_end.hpp, and GoogleTest's.

#include <algorithm>
#include <cstdio>
#include <string>

#include <gtest/gtest.h>

#include <outboard/memory/fault_guard.hpp>
#include <tests/drivers/back_end.hpp>

namespace outboard::drivers {
namespace {

/// One line for each test, at once: whoever runs this in a guest reads them as they come.
class CaseReporter final : public ::testing::EmptyTestEventListener {
 public:
  explicit CaseReporter(const std::string& file) : file_(std::fopen(file.c_str(), "a")) {}
  ~CaseReporter() override {
    if (file_ != nullptr) std::fclose(file_);
  }
  CaseReporter(const CaseReporter&) = delete;
  CaseReporter& operator=(const CaseReporter&) = delete;
  bool open() const { return file_ != nullptr; }

  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed() || !reason_.empty()) return;
    reason_ = std::string(result.file_name() != nullptr ? result.file_name() : "") + ":" +
              std::to_string(result.line_number()) + ": " + result.message();
    std::ranges::replace(reason_, '\n', ' ');
  }
  void OnTestEnd(const ::testing::TestInfo& info) override {
    std::string name = std::string(info.test_suite_name()) + "." + info.name();
    std::ranges::replace(name, '/', '.');
    const bool passed = info.result()->Passed();
    std::fprintf(file_, "CASE %s %s%s\n", name.c_str(), passed ? "ok" : "fail ", passed ? "" : reason_.c_str());
    std::fflush(file_);
    reason_.clear();
  }

 private:
  std::FILE* file_;
  std::string reason_;  ///< the first that went wrong
};

int run(int argc, char** argv) {
  if (!take_arguments(argc, argv)) return 2;
  ::testing::InitGoogleTest(&argc, argv);
  if (!memory::install_fault_guard()) return 2;
  if (!report_file().empty()) {
    auto reporter = std::make_unique<CaseReporter>(report_file());
    if (!reporter->open()) {
      std::perror(report_file().c_str());
      return 2;
    }
    ::testing::UnitTest::GetInstance()->listeners().Append(reporter.release());
  }
  return RUN_ALL_TESTS();
}

}  // namespace
}  // namespace outboard::drivers

int main(int argc, char** argv) { return outboard::drivers::run(argc, argv); }
