#include <tools/outboard/json.hpp>

#include <gtest/gtest.h>

namespace outboard::command {
namespace {

TEST(Json, MembersKeepTheirOrder) {
  Json json{{"z", 1}, {"a", true}, {"none", nullptr}};
  json.set("m", 0.5);
  json.set("z", "first");
  EXPECT_EQ(json.line(), R"({"z":"first","a":true,"none":null,"m":0.5})"
                         "\n");
}

TEST(Json, NumbersKeepTheirSignAndWidth) {
  const Json json{{"least", INT64_MIN}, {"most", UINT64_MAX}, {"byte", std::uint8_t{200}}, {"fd", -1}};
  EXPECT_EQ(json.line(), R"({"least":-9223372036854775808,"most":18446744073709551615,"byte":200,"fd":-1})"
                         "\n");
}

TEST(Json, ListsAndValuesThatMayBeAbsent) {
  Json list = Json::array();
  list.push_back({{"offset", 4}});
  const Json json{{"list", list},
                  {"empty", Json::array()},
                  {"sizes", std::vector<std::uint16_t>{64, 128}},
                  {"group", std::optional<unsigned>(3)},
                  {"node", std::optional<int>()}};
  EXPECT_EQ(json.line(), R"({"list":[{"offset":4}],"empty":[],"sizes":[64,128],"group":3,"node":null})"
                         "\n");
}

TEST(Json, ACopyIsAnotherValue) {
  const Json one{{"a", 1}};
  Json other = one;
  other.set("a", 2);
  EXPECT_EQ(one.line(), "{\"a\":1}\n");
}

TEST(Json, TextIsIndented) { EXPECT_EQ(Json({{"a", 1}}).text(), "{\n  \"a\": 1\n}\n"); }

TEST(Json, TakesBytesThatAreNoText) {
  const Json json{{"target", "bad\xff.raw"}};
  EXPECT_EQ(json.text(), "{\n  \"target\": \"bad\xef\xbf\xbd.raw\"\n}\n");
  EXPECT_EQ(json.line(), "{\"target\":\"bad\xef\xbf\xbd.raw\"}\n");
}

}  // namespace
}  // namespace outboard::command
