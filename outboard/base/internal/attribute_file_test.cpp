#include <outboard/base/internal/attribute_file.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <fstream>

#include <gtest/gtest.h>

#include <outboard/base/fd.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard {
namespace {

std::string content(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

TEST(AttributeFile, IsWrittenHereOrByAProcessOfItsOwn) {
  const testing::TempDir folder;
  (void)folder.make_file("unbind", 0);
  ASSERT_TRUE(write_attribute(folder.path("unbind"), "0000:00:04.0"));
  EXPECT_EQ(content(folder.path("unbind")), "0000:00:04.0");
  ASSERT_TRUE(write_attribute_apart(folder.path("unbind"), "%s \\n $HOME"));
  EXPECT_EQ(content(folder.path("unbind")), "%s \\n $HOME");
  ASSERT_TRUE(write_attribute_apart(folder.path("unbind"), "vda", std::chrono::seconds(60)));
  EXPECT_EQ(content(folder.path("unbind")), "vda");
}

TEST(AttributeFile, OneThatIsNotThereSaysSo) {
  const testing::TempDir folder;
  EXPECT_EQ(write_attribute(folder.path("bind"), "x").error().code(), ENOENT);
  EXPECT_EQ(write_attribute_apart(folder.path("bind"), "x").error().code(), ENOENT);
}

TEST(AttributeFile, AWriteThatTheKernelRefusesIsAnError) {
  EXPECT_EQ(write_attribute("/dev/full", "x").error().code(), ENOSPC);
  EXPECT_EQ(write_attribute_apart("/dev/full", "x").error().code(), EIO);
}

TEST(AttributeFile, AWriteThatDoesNotComeBackIsLeftAloneAfterTheBound) {
  const testing::TempDir folder;
  ASSERT_EQ(::mkfifo(folder.path("unbind").c_str(), 0600), 0);
  UniqueFd reader(::open(folder.path("unbind").c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  const std::array<char, 4096> full{};
  while (::write(reader.get(), full.data(), full.size()) > 0) {
  }
  const auto written = write_attribute_apart(folder.path("unbind"), "x", std::chrono::milliseconds(1));
  ASSERT_FALSE(written.has_value());
  EXPECT_EQ(written.error().code(), ETIMEDOUT);
  EXPECT_NE(written.error().what().find("process"), std::string::npos);
}  // the reader's end lets the writer go

}  // namespace
}  // namespace outboard
