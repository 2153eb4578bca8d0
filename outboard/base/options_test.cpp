#include <outboard/base/options.hpp>

#include <array>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace outboard {
namespace {

constexpr std::array known = {OptionHelp{"image", "FILE", "the image"}, OptionHelp{"queues", "N", "queues"}};

OptionSet options(std::string_view text) {
  auto parsed = OptionSet::parse(text);
  EXPECT_TRUE(parsed) << parsed.error().message();
  return parsed ? std::move(*parsed) : OptionSet();
}

TEST(ParseSize, TakesPowersOf1024) {
  EXPECT_EQ(parse_size("512").value(), 512u);
  EXPECT_EQ(parse_size("64K").value(), 64u << 10);
  EXPECT_EQ(parse_size("64m").value(), 64u << 20);
  EXPECT_EQ(parse_size("2GiB").value(), UINT64_C(2) << 30);
  EXPECT_EQ(parse_size("1T").value(), UINT64_C(1) << 40);
}

TEST(ParseSize, RefusesWhatIsNoSize) {
  for (const char* text : {"", "M", "-1", "1.5G", "10X", "10Mx", " 1"}) EXPECT_FALSE(parse_size(text)) << text;
}

TEST(ParseSize, RefusesWhatDoesNotFit64Bits) {
  EXPECT_EQ(parse_size("99999999999T").error().code(), ERANGE);
  EXPECT_EQ(parse_size("99999999999999999999999").error().code(), ERANGE);
}

TEST(OptionSet, ParsesWordsAndValues) {
  auto set = options("image=disk.raw,queues=2,read-only");
  EXPECT_EQ(set.text("image", "").value(), "disk.raw");
  EXPECT_EQ(set.number("queues", 1, 1, 64).value(), 2u);
  EXPECT_TRUE(set.flag("read-only", false).value());
  EXPECT_TRUE(set.finish(known));
}

TEST(OptionSet, ADoubledCommaIsAComma) { EXPECT_EQ(options("image=a,,b").text("image", "").value(), "a,b"); }

TEST(OptionSet, NothingIsAnEmptySet) { EXPECT_TRUE(options("").finish(known)); }

TEST(OptionSet, GettersGiveWhatWasAgreedForAnAbsentWord) {
  OptionSet set;
  EXPECT_EQ(set.text("image", "x").value(), "x");
  EXPECT_EQ(set.number("queues", 3, 1, 64).value(), 3u);
  EXPECT_EQ(set.size("size", 4096).value(), 4096u);
  EXPECT_TRUE(set.flag("unmap", true).value());
}

TEST(OptionSet, RefusesARepeatedOrEmptyWord) {
  EXPECT_FALSE(OptionSet::parse("queues=1,queues=2"));
  EXPECT_FALSE(OptionSet::parse("a,"));
  EXPECT_FALSE(OptionSet::parse("=4"));
}

TEST(OptionSet, ErrorsNameTheOption) {
  auto set = options("queues=many,size=2X,read-only=perhaps,image,depth=100");
  EXPECT_EQ(set.number("queues", 1, 1, 64).error().message(), "queues: 'many' is not a number");
  EXPECT_EQ(set.size("size", 1).error().message(), "size: '2X' is not a size (512, 64K, 10M, 4G)");
  EXPECT_EQ(set.flag("read-only", false).error().message(), "read-only: 'perhaps' is neither on nor off");
  EXPECT_EQ(set.text("image", "").error().message(), "image: a value is missing");
  EXPECT_EQ(set.number("depth", 1, 1, 64).error().message(), "depth: 100 is not between 1 and 64");
  EXPECT_EQ(set.number("depth", 1, 1, 64).error().code(), ERANGE);
}

TEST(OptionSet, ErrorsNameTheOptionAsItWasTyped) {
  OptionSet set(OptionSet::Syntax::command_line);
  ASSERT_TRUE(set.set("queues", "many"));
  EXPECT_EQ(set.number("queues", 1, 1, 64).error().subject(), "--queues");
  EXPECT_EQ(set.set("queues", "2").error().message(), "--queues: given twice");
  EXPECT_EQ(set.typed("image", "FILE"), "--image FILE");
  EXPECT_EQ(OptionSet().typed("image", "FILE"), "image=FILE");
}

TEST(OptionSet, AnUnusedOptionCannotBeCombinedWithTheOthers) {
  EXPECT_EQ(options("queues=2").finish(known).error().message(), "queues: has no use beside the other options");
  auto set = options("image=x,queues=2");
  ASSERT_TRUE(set.text("image", ""));
  EXPECT_EQ(set.finish(known).error().message(), "queues: has no use beside image");
  EXPECT_THAT(set.finish(known).error().cure(), ::testing::HasSubstr("leave it out"));
}

TEST(OptionSet, AChoiceListsWhatThereIs) {
  constexpr std::array<std::string_view, 2> engines = {"auto", "pool"};
  auto set = options("engine=magic");
  EXPECT_NE(set.choice("engine", engines, "auto").error().message().find("auto, pool"), std::string::npos);
}

TEST(OptionSet, AnUnknownOptionIsRefusedByName) {
  const auto finished = options("imgae=disk.raw").finish(known);
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().message(), "imgae: unknown option");
  EXPECT_NE(finished.error().cure().find("image, queues"), std::string::npos);
}

TEST(OptionSet, AnOptionThatNoListHasIsUnknown) {
  const auto set = options("image=x,packed,pakced=1");
  const std::array<OptionHelp, 1> more{{{"packed", "", "offer packed rings"}}};
  const auto checked = set.check_known({known, more});
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().message(), "pakced: unknown option");
  EXPECT_EQ(checked.error().cure(), "options: image, queues, packed");
  EXPECT_TRUE(options("image=x,packed").check_known({known, more}));
  EXPECT_EQ(options("image=x").check_known({}).error().cure(), "there are no options");
}

TEST(OptionSet, TakeRemovesAnOption) {
  auto set = options("packed,queues=2");
  ASSERT_TRUE(set.take("packed"));
  EXPECT_FALSE(set.take("packed"));
  EXPECT_EQ(*set.take("queues"), "2");
  EXPECT_TRUE(set.finish(known));
}

}  // namespace
}  // namespace outboard
