#include <tools/outboard/new/device.hpp>

#include <algorithm>
#include <fstream>
#include <regex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tests/support/temp_dir.hpp>
#include <tools/outboard/new/templates.hpp>

namespace outboard::command {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;
using Form = NewDevice::Form;

std::vector<std::string> paths_of(const FileSet& set) {
  std::vector<std::string> paths;
  for (const auto& file : set.files) paths.push_back(file.path);
  return paths;
}

std::string text_of(const FileSet& set, std::string_view path) {
  const auto found = std::ranges::find(set.files, path, &NewFile::path);
  return found == set.files.end() ? "there is no such file" : found->text;
}

class BothForms : public ::testing::TestWithParam<Form> {
 protected:
  FileSet set = files_of({.form = GetParam(), .name = "water_level", .device_id = 57});
};
INSTANTIATE_TEST_SUITE_P(, BothForms, ::testing::Values(Form::checkout, Form::standalone),
                         [](const auto& form) { return form.param == Form::checkout ? "checkout" : "standalone"; });

TEST_P(BothForms, NoPlaceholderIsLeft) {
  const std::regex placeholder("@[A-Z_]+@");
  for (const auto& file : set.files) {
    EXPECT_FALSE(std::regex_search(file.path, placeholder)) << file.path;
    std::smatch found;
    EXPECT_FALSE(std::regex_search(file.text, found, placeholder)) << file.path << ": " << found.str();
  }
}

TEST_P(BothForms, EachFileLiesInOneUnit) {
  for (const auto& file : set.files) {
    const auto holds = [&](const std::string& unit) { return file.path == unit || file.path.starts_with(unit + "/"); };
    EXPECT_EQ(std::ranges::count_if(set.units, holds), 1) << file.path;
  }
}

TEST_P(BothForms, NoFileIsMadeTwice) {
  const auto paths = paths_of(set);
  EXPECT_EQ(std::ranges::adjacent_find(paths), paths.end());
}

TEST_P(BothForms, TextEndsWithALineAndNoLineWithABlank) {
  for (const auto& file : set.files) {
    EXPECT_TRUE(file.text.ends_with('\n') && !file.text.ends_with("\n\n")) << file.path;
    EXPECT_EQ(file.text.find(" \n"), std::string::npos) << file.path;
    // Python wants two empty lines between functions.
    if (!file.path.ends_with(".py")) {
      EXPECT_EQ(file.text.find("\n\n\n"), std::string::npos) << file.path;
    }
  }
}

TEST_P(BothForms, DeviceIdStandsInOnePlaceForEachLanguage) {
  std::vector<std::string> places;
  for (const auto& file : set.files)
    if (std::regex_search(file.text, std::regex(R"((^|[^0-9])57($|[^0-9]))")))
      places.push_back(fs::path(file.path).filename());
  EXPECT_THAT(places, UnorderedElementsAre("layout.hpp", "virtio_water_level.h"));
}

TEST(NewDevice, OfACheckoutLiesWhereTheBuildFindsIt) {
  const FileSet set = files_of({.form = Form::checkout, .name = "water_level", .device_id = 57});
  EXPECT_THAT(set.units, UnorderedElementsAre("outboard/devices/water_level", "linux/virtio_water_level",
                                              "tests/system/water_level_test.py", "examples/read_water_level.cpp"));
  EXPECT_THAT(text_of(set, "outboard/devices/water_level/CMakeLists.txt"),
              HasSubstr("outboard_add_device(water_level"));
  EXPECT_THAT(text_of(set, "outboard/devices/water_level/device.hpp"), HasSubstr("namespace outboard::water_level {"));
  EXPECT_THAT(text_of(set, "outboard/devices/water_level/layout.hpp"), HasSubstr("device_id = 57;"));
}

TEST(NewDevice, OfItsOwnUsesTheInstalledLibrary) {
  const FileSet set = files_of({.form = Form::standalone, .name = "water_level", .device_id = 57});
  EXPECT_THAT(text_of(set, "CMakeLists.txt"), HasSubstr("find_package(outboard 0."));
  EXPECT_THAT(text_of(set, "virtio_water_level/device.hpp"), HasSubstr("namespace virtio_water_level {"));
  EXPECT_THAT(paths_of(set), Contains("linux/virtio_water_level.c"));
  EXPECT_THAT(paths_of(set), Contains("tests/guest_test"));
}

TEST(NewDevice, EveryTemplateIsUsed) {
  const std::size_t made = files_of({.form = Form::checkout, .name = "a", .device_id = 57}).files.size() +
                           files_of({.form = Form::standalone, .name = "a", .device_id = 57}).files.size();
  std::size_t wanted = 0;
  for (const auto& each : device_templates())
    wanted += each.path.starts_with("checkout/") || each.path.starts_with("standalone/") ? 1 : 2;
  EXPECT_EQ(made, wanted);
}

/// A folder that looks like a checkout, as far as it matters here.
class Checkout : public ::testing::Test {
 protected:
  Checkout() {
    for (const auto* file : {"top/cmake/OutboardRooms.cmake", "top/outboard/devices/CMakeLists.txt", "top/dev"})
      put(file, "");
  }
  void put(const std::string& path, const std::string& text) const {
    fs::create_directories(fs::path(folder.path(path)).parent_path());
    std::ofstream(folder.path(path)) << text;
  }

  outboard::testing::TempDir folder;
};

TEST_F(Checkout, IsFoundFromTheCurrentFolderUpwards) {
  EXPECT_EQ(find_checkout(folder.path("top")).value(), folder.path("top"));
  EXPECT_EQ(find_checkout(folder.path("top/outboard/devices")).value(), folder.path("top"));
  EXPECT_EQ(find_checkout(folder.path()).error().code(), ENOENT);
  EXPECT_EQ(find_checkout("/").error().code(), ENOENT);
}

TEST_F(Checkout, NextDeviceIdIsTheHighestForExperimentsThatIsNotUsed) {
  EXPECT_EQ(next_device_id(used_device_ids(folder.path("top"))).value(), 63U);
  put("top/outboard/devices/a/layout.hpp", "constexpr std::uint32_t device_id = 63;\n");
  put("top/outboard/devices/b/layout.hpp", "constexpr std::uint32_t device_id = 2;\n");
  put("top/outboard/devices/c/layout.hpp", "constexpr std::uint32_t device_id = 61;\n");
  put("top/outboard/devices/d/README.md", "no layout here\n");
  put("top/outboard/devices/e/layout.hpp", "subsystem_device_id = 7;\nconstexpr int device_id = id;\n");
  put("top/outboard/devices/f/layout.hpp", "device_id = 9 + 1; device_id = 99999999; device_id = 8;\n");
  const auto used = used_device_ids(folder.path("top"));
  EXPECT_THAT(used, ElementsAre(Pair(2, "b"), Pair(8, "f"), Pair(61, "c"), Pair(63, "a")));
  EXPECT_EQ(next_device_id(used).value(), 62U);
}

TEST(NextDeviceId, SaysSoWhenThereIsNone) {
  std::map<std::uint32_t, std::string> used;
  for (std::uint32_t id = 50; id <= 63; ++id) used.emplace(id, "a");
  EXPECT_EQ(next_device_id(used).error().code(), ENOSPC);
}

}  // namespace
}  // namespace outboard::command
