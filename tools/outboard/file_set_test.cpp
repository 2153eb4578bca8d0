#include <tools/outboard/file_set.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tests/support/temp_dir.hpp>

namespace outboard::command {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class FileSetTest : public ::testing::Test {
 protected:
  std::vector<std::string> tree() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder.path()))
      found.push_back(entry.path().lexically_relative(folder.path()).string());
    std::ranges::sort(found);
    return found;
  }
  std::string text(const std::string& path) const {
    std::stringstream text;
    text << std::ifstream(folder.path(path)).rdbuf();
    return text.str();
  }

  outboard::testing::TempDir folder;
  FileSet set{.root = folder.path(),
              .units = {"a/deep/folder", "file", "script"},
              .files = {{"a/deep/folder/one", "1\n"}, {"file", "2\n"}, {"script", "#!/bin/sh\n"}}};
};

TEST_F(FileSetTest, FilesAreMadeWithTheFoldersThatTheyLieIn) {
  ASSERT_TRUE(create_files(set));
  EXPECT_THAT(tree(), ElementsAre("a", "a/deep", "a/deep/folder", "a/deep/folder/one", "file", "script"));
  EXPECT_EQ(text("a/deep/folder/one"), "1\n");
}

TEST_F(FileSetTest, ScriptsCanBeExecuted) {
  ASSERT_TRUE(create_files(set));
  EXPECT_EQ(access(folder.path("script").c_str(), X_OK), 0);
  struct stat file{};
  ASSERT_EQ(stat(folder.path("file").c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0111U, 0U);
}

TEST_F(FileSetTest, RootIsMadeIfItIsNotThere) {
  set.root = folder.path("new");
  ASSERT_TRUE(create_files(set));
  EXPECT_EQ(text("new/file"), "2\n");
}

TEST_F(FileSetTest, WhatIsThereIsLeftAndNothingIsMade) {
  std::ofstream(folder.path("script")) << "mine";
  const auto made = create_files(set);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), EEXIST);
  EXPECT_EQ(made.error().subject(), folder.path("script"));
  EXPECT_THAT(tree(), ElementsAre("script"));
  EXPECT_EQ(text("script"), "mine");
}

TEST_F(FileSetTest, LinkThatLeadsNowhereIsThere) {
  ASSERT_EQ(symlink("nowhere", folder.path("file").c_str()), 0);
  EXPECT_EQ(create_files(set).error().code(), EEXIST);
  EXPECT_THAT(tree(), ElementsAre("file"));
}

TEST_F(FileSetTest, EmptyFolderInAPlaceIsThere) {
  fs::create_directories(folder.path("a/deep/folder"));
  EXPECT_EQ(create_files(set).error().code(), EEXIST);
  EXPECT_THAT(tree(), ElementsAre("a", "a/deep", "a/deep/folder"));
}

TEST_F(FileSetTest, FileWhereAFolderHasToBeIsInTheWay) {
  std::ofstream(folder.path("a")) << "mine";
  EXPECT_FALSE(create_files(set));
  EXPECT_THAT(tree(), ElementsAre("a"));
}

TEST_F(FileSetTest, FailureHalfwayLeavesNothing) {
  set.units.emplace_back("missing");  // in no file: it cannot be moved to its place
  set.root = folder.path("new");
  EXPECT_FALSE(create_files(set));
  EXPECT_THAT(tree(), IsEmpty());
}

TEST_F(FileSetTest, FailureHalfwayLeavesFoldersThatWereThere) {
  fs::create_directories(folder.path("a"));
  set.units.emplace_back("missing");
  EXPECT_FALSE(create_files(set));
  EXPECT_THAT(tree(), ElementsAre("a"));
}

// A folder that one may not write to: tests/cli/new_test.py, since root may write everywhere.

}  // namespace
}  // namespace outboard::command
