#include <outboard/base/internal/shell_word.hpp>

#include <gtest/gtest.h>

namespace outboard {
namespace {

TEST(ShellWord, OfPlainCharactersIsLeftAsItIs) {
  for (const char* word : {"vfio-pci", "/dev/disk/by-id/nvme-1+2_3:4@5%6,7", "--driver"})
    EXPECT_EQ(shell_word(word), word);
}

TEST(ShellWord, OfOthersIsQuoted) {
  EXPECT_EQ(shell_word(""), "''");
  EXPECT_EQ(shell_word("two words"), "'two words'");
  EXPECT_EQ(shell_word("~root"), "'~root'");
  EXPECT_EQ(shell_word("it's $HOME"), R"('it'\''s $HOME')");
}

TEST(ShellPath, IsNoOption) {
  EXPECT_EQ(shell_path("-rf"), "./-rf");
  EXPECT_EQ(shell_path("-r f"), "'./-r f'");
  EXPECT_EQ(shell_path("disk.raw"), "disk.raw");
}

}  // namespace
}  // namespace outboard
