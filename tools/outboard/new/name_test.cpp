#include <tools/outboard/new/name.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace outboard::command {
namespace {

using ::testing::HasSubstr;

std::string refusal(std::string_view name) {
  const auto checked = check_device_name(name);
  return checked ? "" : checked.error().message();
}

TEST(DeviceName, LettersDigitsAndUnderscoresWithALetterFirst) {
  for (const auto* name : {"thermometer", "a", "water_level", "gpio2", "x9_y", "abcdefghijklmnopqrstuvwxyzabcdef"})
    EXPECT_EQ(refusal(name), "") << name;
}

TEST(DeviceName, RefusesOtherCharacters) {
  for (const auto* name : {"Thermometer", "thermo-meter", "thermo meter", "thermo/meter", "..", "a.b", "a;b", "a\n",
                           "thermomètre", "a$b", "a@NAME@"})
    EXPECT_NE(refusal(name), "") << name;
  EXPECT_NE(refusal(std::string_view("a\0b", 3)), "");
}

TEST(DeviceName, RefusesWhatDoesNotBeginWithALetter) {
  for (const auto* name : {"", "1a", "_a", "-a", "--help", "/tmp/a"}) EXPECT_NE(refusal(name), "") << name;
}

TEST(DeviceName, RefusesMoreThan32Characters) {
  EXPECT_THAT(refusal("abcdefghijklmnopqrstuvwxyzabcdefg"), HasSubstr("32"));
}

TEST(DeviceName, RefusesUnderscoresThatCppReserves) {
  for (const auto* name : {"a__b", "a_"}) EXPECT_THAT(refusal(name), HasSubstr("underscores")) << name;
}

TEST(DeviceName, RefusesKeywords) {
  for (const auto* name : {"new", "class", "register", "co_await", "int", "constinit", "xor_eq"})
    EXPECT_THAT(refusal(name), HasSubstr("keyword")) << name;
}

TEST(DeviceName, RefusesRoomsAndNamespaces) {
  for (const auto* name :
       {"outboard", "virtio", "pci", "std", "spec", "memory", "vfio_user", "targets", "testing", "le32"})
    EXPECT_THAT(refusal(name), HasSubstr("library")) << name;
}

TEST(DeviceName, RefusesTargetsOfTheBuild) {
  for (const auto* name : {"all", "clean", "help", "install", "rebuild_cache"})
    EXPECT_THAT(refusal(name), HasSubstr("build")) << name;
}

TEST(DeviceName, RefusesThoseOfDriversThatLinuxHas) {
  for (const auto* name : {"net", "blk", "rng", "console", "device", "ring"})
    EXPECT_THAT(refusal(name), HasSubstr("Linux")) << name;
}

TEST(DeviceName, RefusesEndingsByWhichFilesAreFound) {
  for (const auto* name : {"a_test", "a_threads_test", "a_fuzz", "a_bench"}) EXPECT_NE(refusal(name), "") << name;
}

TEST(DeviceName, EachRefusalHasACure) { EXPECT_NE(check_device_name("A").error().cure(), ""); }

TEST(DeviceName, AppearsInThreeForms) {
  EXPECT_EQ(class_name("water_level2"), "WaterLevel2");
  EXPECT_EQ(upper_name("water_level2"), "WATER_LEVEL2");
  EXPECT_EQ(title_of("water_level2"), "Water Level2");
}

TEST(DeviceId, IsOneThatPciCanExpress) {
  EXPECT_TRUE(check_device_id(50, false));
  EXPECT_TRUE(check_device_id(63, false));
  EXPECT_FALSE(check_device_id(0, true));
  EXPECT_FALSE(check_device_id(64, true));
}

TEST(DeviceId, ThatIsGivenOutHasToBeMeant) {
  EXPECT_FALSE(check_device_id(1, false));
  EXPECT_FALSE(check_device_id(49, false));
  EXPECT_TRUE(check_device_id(49, true));
}

}  // namespace
}  // namespace outboard::command
