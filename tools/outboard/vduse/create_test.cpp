#include <tools/outboard/vduse/create.hpp>

#include <gtest/gtest.h>

namespace outboard::command {
namespace {

TEST(Owner, AUserAGroupOrBoth) {
  EXPECT_EQ(parse_owner("root")->user, 0U);
  EXPECT_FALSE(parse_owner("root")->group);
  EXPECT_EQ(parse_owner("1000:root")->user, 1000U);
  EXPECT_EQ(parse_owner("1000:root")->group, 0U);
  EXPECT_FALSE(parse_owner(":12")->user);
  EXPECT_EQ(parse_owner(":12")->group, 12U);
}

TEST(Owner, WhoDoesNotExistIsNamed) {
  for (const char* text : {"no-such-user", "root:no-such-group", "", ":", "12x"})
    EXPECT_EQ(parse_owner(text).error().code(), EINVAL) << text;
  EXPECT_NE(parse_owner("no-such-user").error().message().find("no-such-user"), std::string::npos);
}

}  // namespace
}  // namespace outboard::command
