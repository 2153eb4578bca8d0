#include <tools/outboard/end_verdict.hpp>

#include <optional>

#include <gtest/gtest.h>

#include <outboard/storage/ending.hpp>

namespace outboard::command {
namespace {

using storage::Ending;
using storage::EndingScope;
using Verdict = StopSignal::Verdict;

TEST(EndVerdict, EndsWhatWaitsForRequestsOrForNothingOfStorage) {
  EndVerdict verdict;
  EXPECT_EQ(verdict(), Verdict::end);
  const EndingScope scope(Ending::requests);
  EXPECT_EQ(verdict(), Verdict::end);
}

TEST(EndVerdict, WaitsForTheClosingOfAnImageAndGivesWhatComesAfterItItsTime) {
  EndVerdict verdict;
  std::optional<EndingScope> scope(Ending::closing);
  EXPECT_EQ(verdict(), Verdict::wait);
  EXPECT_EQ(verdict(), Verdict::wait);
  scope.reset();
  EXPECT_EQ(verdict(), Verdict::anew);
  EXPECT_EQ(verdict(), Verdict::end);
}

}  // namespace
}  // namespace outboard::command
