#include <outboard/base/internal/printable.hpp>

#include <gtest/gtest.h>

#include <outboard/base/log.hpp>

namespace outboard {
namespace {

TEST(Printable, TextForPeopleStaysAsItIs) {
  EXPECT_EQ(printable("process 12 (qemu-system-x86) of user 0"), "process 12 (qemu-system-x86) of user 0");
  EXPECT_EQ(printable("/disks/für Ōe/磁盘.raw"), "/disks/für Ōe/磁盘.raw");
}

TEST(Printable, WhatSteersATerminalOrForgesALineIsWrittenOut) {
  EXPECT_EQ(printable("\x1b[2Jx\ny\r\t\x7f"), R"(\x1b[2Jx\x0ay\x0d\x09\x7f)");
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), R"(a\x00b)");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            R"(\xc2\x9b31m)")
      << "CSI as one character";
  EXPECT_EQ(printable("\xe2\x80\xae"
                      "gnp"),
            R"(\xe2\x80\xaegnp)")
      << "right-to-left override";
}

TEST(Printable, WhatIsNoUtf8IsWrittenOut) {
  EXPECT_EQ(printable("\xff\xc3"), R"(\xff\xc3)");
  EXPECT_EQ(printable("\xc0\x9b"), R"(\xc0\x9b)") << "too long a form of ESC";
  EXPECT_EQ(printable("\xed\xa0\x80"), R"(\xed\xa0\x80)") << "a surrogate";
  EXPECT_EQ(printable("\xf4\x90\x80\x80"), R"(\xf4\x90\x80\x80)");
}

TEST(Printable, EachLineOfALogIsPrintable) {
  std::string seen;
  const Log log([&](Level, std::string_view line) { seen = line; });
  log.named("blk").warning("{} is refused", "a\x1b]0;b\n");
  EXPECT_EQ(seen, R"(blk: a\x1b]0;b\x0a is refused)");
}

}  // namespace
}  // namespace outboard
