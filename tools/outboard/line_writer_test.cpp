#include <tools/outboard/line_writer.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/fd.hpp>

namespace outboard::command {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) < 0) return;
    read_end = UniqueFd(ends[0]);
    write_end = UniqueFd(ends[1]);
  }
  std::string take() const {
    std::array<char, 65536> bytes;
    const auto got = ::read(read_end.get(), bytes.data(), bytes.size());
    return {bytes.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0))};
  }
  UniqueFd read_end, write_end;
};

TEST(LineWriter, WritesLines) {
  const Pipe pipe;
  LineWriter writer(pipe.write_end.get());
  writer.write("one\n");
  writer.write("two\n");
  EXPECT_EQ(pipe.take(), "one\ntwo\n");
}

TEST(LineWriter, DropsWhatNobodyReadsInsteadOfWaitingAndSaysHowMuchItWas) {
  const Pipe pipe;
  LineWriter writer(pipe.write_end.get());
  const std::string line = std::string(999, 'x') + "\n";
  for (int i = 0; i < 100; ++i) writer.write(line);  // it would wait for ever
  const auto before = pipe.take().size() / line.size();
  ASSERT_GT(before, 0U);
  writer.write("again\n");
  EXPECT_EQ(pipe.take(),
            "(" + std::to_string(100 - before) + " lines of this log are missing here: nobody read them)\nagain\n");
  writer.write("and on\n");
  EXPECT_EQ(pipe.take(), "and on\n");
}

TEST(LineWriter, CutsALineThatAPipeWouldNotTakeInOnePiece) {
  const Pipe pipe;
  LineWriter writer(pipe.write_end.get());
  writer.write(std::string(100000, 'x') + "\n");
  const std::string got = pipe.take();
  EXPECT_EQ(got.size(), 4096U);
  EXPECT_THAT(got, EndsWith("x\n"));
}

}  // namespace
}  // namespace outboard::command
