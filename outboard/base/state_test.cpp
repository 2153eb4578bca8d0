#include <outboard/base/state.hpp>

#include <array>

#include <gtest/gtest.h>

namespace outboard {
namespace {

constexpr StateTag outer = state_tag("OUTR");
constexpr StateTag inner = state_tag("INNR");

/// A section of version 2 with a number, a flag, an inner section of version 1 with bytes, and another number.
std::vector<std::byte> a_state() {
  StateWriter writer;
  {
    const auto whole = writer.section(outer, 2);
    writer.put(std::uint16_t{0x1234});
    writer.put_flag(true);
    {
      const auto part = writer.section(inner, 1);
      const std::array<std::byte, 3> bytes{std::byte{1}, std::byte{2}, std::byte{3}};
      writer.put_bytes(bytes);
    }
    writer.put(UINT64_C(7));
  }
  return std::move(writer).finish().value();
}

/// Takes all of it, each field checked. What is wrong with it.
Status read(Bytes state, std::uint16_t max_version = 2) {
  OUTBOARD_TRY(auto whole, StateReader::open(state, outer, max_version));
  OUTBOARD_TRY(const auto number, whole.get<std::uint16_t>());
  OUTBOARD_TRY(const bool flag, whole.get_flag());
  OUTBOARD_TRY(auto part, whole.section(inner, 1));
  OUTBOARD_TRY(const Bytes bytes, part.get_bytes(16));
  OUTBOARD_CHECK(part.end());
  OUTBOARD_TRY(const auto last, whole.get<std::uint64_t>());
  OUTBOARD_CHECK(whole.end());
  EXPECT_EQ(number, 0x1234);
  EXPECT_TRUE(flag);
  EXPECT_EQ(bytes.size(), 3U);
  EXPECT_EQ(last, 7U);
  return {};
}

int code_of(const Status& status) { return status ? 0 : status.error().code(); }

TEST(State, WhatIsWrittenIsRead) { EXPECT_EQ(code_of(read(a_state())), 0); }

TEST(State, ItsBytesAreTheSameOnEveryMachine) {
  StateWriter writer;
  {
    const auto part = writer.section(inner, 1);
    writer.put(UINT32_C(0x01020304));
  }
  const auto bytes = std::move(writer).finish().value();
  constexpr std::array<unsigned char, 16> expected{'I', 'N', 'N', 'R', 1, 0, 0, 0, 4, 0, 0, 0, 4, 3, 2, 1};
  ASSERT_EQ(bytes.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_EQ(std::to_integer<unsigned char>(bytes[i]), expected[i]) << i;
}

TEST(State, ANewerVersionIsRefusedAndAnOlderOneTaken) {
  const auto state = a_state();
  EXPECT_EQ(code_of(read(state, 1)), ENOTSUP);
  EXPECT_EQ(code_of(read(state, 3)), 0);
}

TEST(State, EachCutIsRefused) {
  const auto state = a_state();
  for (std::size_t size = 0; size < state.size(); ++size)
    EXPECT_EQ(code_of(read(Bytes(state).first(size))), EINVAL) << size;
}

TEST(State, WhatFollowsIsRefused) {
  auto state = a_state();
  state.push_back(std::byte{0});
  EXPECT_EQ(code_of(read(state)), EINVAL);
}

TEST(State, ASectionThatIsLongerOrShorterThanItsFieldsIsRefused) {
  for (const int change : {-1, 1, 100}) {
    auto state = a_state();
    constexpr std::size_t inner_length = 12 + 3 + 8;
    state[inner_length] = static_cast<std::byte>(std::to_integer<int>(state[inner_length]) + change);
    EXPECT_EQ(code_of(read(state)), EINVAL) << change;
  }
}

TEST(State, FieldsThatAreLeftOverAreRefused) {
  const auto state = a_state();
  auto whole = StateReader::open(state, outer, 2).value();
  ASSERT_TRUE(whole.get<std::uint16_t>());
  EXPECT_EQ(code_of(whole.end()), EINVAL);
}

TEST(State, AHugeLengthIsRefused) {
  auto state = a_state();
  for (std::size_t i = 8; i < 12; ++i) state[i] = std::byte{0xff};
  EXPECT_EQ(code_of(read(state)), EINVAL);
}

TEST(State, AnotherSectionInItsPlaceIsNamed) {
  const auto state = a_state();
  const auto opened = StateReader::open(state, inner, 1);
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message().find("'OUTR' is in its place"), std::string::npos) << opened.error().message();
}

TEST(State, VersionZeroAFilledReservedFieldAndABadFlagAreRefused) {
  for (const std::size_t at : {std::size_t{6}, std::size_t{7}}) {
    auto state = a_state();
    state[at] = std::byte{1};
    EXPECT_EQ(code_of(read(state)), EINVAL) << at;
  }
  auto state = a_state();
  state[4] = std::byte{0};
  EXPECT_EQ(code_of(read(state)), EINVAL);
  state = a_state();
  state[14] = std::byte{2};
  EXPECT_EQ(code_of(read(state)), EINVAL);
}

TEST(State, MoreBytesThanAllowedAreRefused) {
  const auto state = a_state();
  auto whole = StateReader::open(state, outer, 2).value();
  ASSERT_TRUE(whole.get<std::uint16_t>());
  ASSERT_TRUE(whole.get_flag());
  auto part = whole.section(inner, 1).value();
  EXPECT_EQ(part.get_bytes(2).error().code(), EINVAL);
}

TEST(State, AStateThatIsTooLargeIsRefused) {
  StateWriter writer;
  const std::vector<std::byte> much(StateWriter::max_size / 2 + 1);
  {
    const auto whole = writer.section(outer, 1);
    writer.put_bytes(much);
    writer.put_bytes(much);
  }
  EXPECT_EQ(std::move(writer).finish().error().code(), EFBIG);
}

}  // namespace
}  // namespace outboard
