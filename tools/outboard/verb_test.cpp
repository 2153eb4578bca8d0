#include <tools/outboard/verb.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <tools/outboard/build_facts.hpp>
#include <tools/outboard/usage_error.hpp>

namespace outboard::command {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// `test copy`, with options of each kind, and the group `test disk` with one verb.
class CommandLineTest : public ::testing::Test {
 protected:
  CommandLineTest() {
    line.describe_help("print this help");
    const Verb copy = line.root().add_verb("copy", "copies");
    copy.add_option("NAME", names, "what is copied");
    const Option at_once = copy.add_option("--depth", depth, "how many at once").range(1, 8);
    copy.add_option("--kind", kind, "which").one_of({"full", "part"});
    copy.add_option("--id", id, "which one").excludes(at_once);
    copy.add_size("--size", size, "how much");
    const auto is_even = [](const std::string& text) -> Status {
      if (text.size() % 2 != 0) return Error(EINVAL, "the word is odd");
      return {};
    };
    copy.add_option("--even", even, "a word").check(is_even);
    const auto refuse = [](const std::string& text) -> Status { return Error(EINVAL, "no " + text).on("--never"); };
    copy.add_option("--never", refuse, "is refused");
    copy.add_flag("--force", force, "do it");
    copy.add_flag("-v,--verbose", verbosity, "say more");
    copy.set_footer("the foot\n");
    copy.prepend_footer("above it");
    copy.on_chosen([this] { ++chosen; });
    line.root().add_group("disk", "disks", "").add_verb("info", "shows it").add_option("NAME", even, "").required();
    line.add_help_verb();
  }

  /// Why the words are refused.
  std::string refusal(std::vector<std::string> words) {
    const auto parsed = line.parse(std::move(words));
    if (parsed) return "";
    EXPECT_TRUE(is_usage_error(parsed.error()));
    EXPECT_EQ(chosen, 0);
    return parsed.error().message() + " | " + parsed.error().cure();
  }
  std::string answer(std::vector<std::string> words) {
    const auto parsed = line.parse(std::move(words));
    return parsed && *parsed ? **parsed : "";
  }

  CommandLine line{"test", "a test"};
  std::vector<std::string> names;
  unsigned depth = 4;
  std::string kind, even;
  std::optional<std::uint32_t> id;
  std::uint64_t size = 0;
  bool force = false;
  int verbosity = 0;
  int chosen = 0;
};

TEST_F(CommandLineTest, ValuesReachTheirVariables) {
  const auto parsed = line.parse({"copy", "a", "--depth", "2", "b", "--kind=part", "--size", "4K", "--force", "-vv"});
  ASSERT_TRUE(parsed);
  EXPECT_FALSE(*parsed);
  EXPECT_THAT(names, ElementsAre("a", "b"));
  EXPECT_EQ(depth, 2U);
  EXPECT_EQ(kind, "part");
  EXPECT_EQ(size, 4096U);
  EXPECT_TRUE(force);
  EXPECT_EQ(verbosity, 2);
  EXPECT_EQ(chosen, 1);
}

TEST_F(CommandLineTest, AnAbsentOptionLeavesItsVariable) {
  ASSERT_TRUE(line.parse({"copy"}));
  EXPECT_EQ(depth, 4U);
  EXPECT_EQ(id, std::nullopt);
}

TEST_F(CommandLineTest, ARefusalSaysWhy) {
  EXPECT_THAT(refusal({"copy", "--depth", "9"}), HasSubstr("--depth: Value 9 not in range 1 to 8 | test copy --help"));
  EXPECT_THAT(refusal({"copy", "--kind", "half"}), HasSubstr("--kind: half not in"));
  EXPECT_THAT(refusal({"copy", "--size", "4Q"}), HasSubstr("'4Q' is not a size"));
  EXPECT_THAT(refusal({"copy", "--even", "odd"}), HasSubstr("--even: the word is odd"));
  EXPECT_THAT(refusal({"copy", "--never", "mind"}), HasSubstr("--never: no mind"));
  EXPECT_THAT(refusal({"copy", "--id", "1", "--depth", "1"}), HasSubstr("excludes"));
  EXPECT_THAT(refusal({"disk", "info"}), HasSubstr("NAME is required | test disk info --help"));
}

TEST_F(CommandLineTest, UnknownWordsAreRefused) {
  EXPECT_THAT(refusal({"cpoy"}), HasSubstr("unknown verb 'cpoy' after `test` | its verbs: copy, disk, help"));
  EXPECT_THAT(refusal({"disk"}), HasSubstr("`test disk` needs a verb | its verbs: info"));
  EXPECT_THAT(refusal({"copy", "--deep"}), HasSubstr("unexpected argument: --deep | test copy --help"));
}

TEST_F(CommandLineTest, HelpOfAnUnknownVerbIsRefused) {
  EXPECT_THAT(refusal({"help", "cpoy"}), HasSubstr("unknown verb 'cpoy' after `test`"));
  EXPECT_THAT(refusal({"help", "disk", "ifno"}), HasSubstr("unknown verb 'ifno' after `test disk`"));
  EXPECT_THAT(refusal({"cpoy", "--help"}), HasSubstr("unknown verb 'cpoy' after `test`"));
}

TEST_F(CommandLineTest, HelpOfAVerbHasItsFooter) {
  const std::string help = answer({"copy", "--help"});
  EXPECT_THAT(help, HasSubstr("--depth UINT:INT in [1 - 8]"));
  EXPECT_THAT(help, HasSubstr("above it\n\nthe foot\n"));
  EXPECT_EQ(chosen, 0);
}

TEST_F(CommandLineTest, HelpVerbIsHelpOption) {
  const std::string help = answer({"help", "copy"});
  EXPECT_THAT(help, HasSubstr("how many at once"));
}

TEST_F(CommandLineTest, HelpAloneIsOfTheProgram) { EXPECT_THAT(answer({"help"}), HasSubstr("a test")); }

TEST_F(CommandLineTest, VersionIsALine) { EXPECT_EQ(answer({"--version"}), fmt::format("outboard {}\n", version)); }

TEST(CommandLine, SecondsAreNumbersInTheirRange) {
  for (const char* good : {"0.01", "2", "1e2", "86400"}) {
    double seconds = 0;
    CommandLine line("test", "");
    line.root().add_seconds("--seconds", seconds, 0.01, "");
    EXPECT_TRUE(line.parse({"--seconds", good})) << good;
    EXPECT_GT(seconds, 0);
  }
  for (const char* bad : {"0", "0.001", "86401", "nan", "inf", "soon", "1s", ""}) {
    double seconds = 7;
    CommandLine line("test", "");
    line.root().add_seconds("--seconds", seconds, 0.01, "");
    EXPECT_FALSE(line.parse({"--seconds", bad})) << bad;
    EXPECT_EQ(seconds, 7) << bad;
  }
}

}  // namespace
}  // namespace outboard::command
