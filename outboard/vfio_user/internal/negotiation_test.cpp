#include <gtest/gtest.h>

#include <outboard/vfio_user/internal/negotiation.hpp>
#include <tests/support/vfio_user_peer.hpp>

namespace outboard::vfio_user {
namespace {

using testing::joined;

std::vector<std::byte> payload_of(std::string json, bool nul = true) {
  auto payload = joined(spec::Version{0, 0});
  if (nul) json.push_back('\0');
  const auto text = std::as_bytes(std::span(json));
  payload.insert(payload.end(), text.begin(), text.end());
  return payload;
}

Result<VersionMessage> parse(const std::string& json) { return parse_version(payload_of(json)); }

int error_of(const Result<VersionMessage>& result) { return result ? 0 : result.error().code(); }

std::string capabilities(const std::string& members) { return "{\"capabilities\":{" + members + "}}"; }

TEST(Negotiation, WhatIsNotSaidHasTheDefaultOfTheSpecification) {
  for (const auto& message : {parse_version(joined(spec::Version{0, 0})), parse("{}"), parse(capabilities(""))}) {
    ASSERT_TRUE(message);
    EXPECT_EQ(message->capabilities.max_msg_fds, 1u);
    EXPECT_EQ(message->capabilities.max_data_xfer_size, 1048576u);
    EXPECT_EQ(message->capabilities.max_dma_maps, 65535u);
    EXPECT_EQ(message->capabilities.pgsizes, 4096u);
    EXPECT_FALSE(message->capabilities.write_multiple);
    EXPECT_FALSE(message->capabilities.twin_socket);
  }
}

TEST(Negotiation, WhatQemuSaysIsUnderstood) {
  const auto message =
      parse(capabilities(R"("pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,"max_data_xfer_size":1048576,)"
                         R"("migration":{"pgsize":4096,"max_bitmap_size":268435456},"write_multiple":true)"));
  ASSERT_TRUE(message) << message.error().message();
  EXPECT_EQ(message->capabilities.max_msg_fds, 16u);
  EXPECT_TRUE(message->capabilities.write_multiple);
}

TEST(Negotiation, TwinSocketIsUnderstood) {
  const auto message = parse(capabilities(R"("twin_socket":{"supported":true,"fd_index":3})"));
  ASSERT_TRUE(message);
  EXPECT_TRUE(message->capabilities.twin_socket);
  EXPECT_EQ(message->capabilities.twin_socket_fd_index, 3u);
}

TEST(Negotiation, WhatIsBuiltIsParsedAgain) {
  VersionMessage message;
  message.version = {0, 3};
  message.capabilities = {.max_msg_fds = 16,
                          .max_data_xfer_size = 65536,
                          .max_dma_maps = 12,
                          .pgsizes = 8192,
                          .write_multiple = true,
                          .twin_socket_fd_index = {}};
  const auto again = parse_version(build_version(message));
  ASSERT_TRUE(again);
  EXPECT_EQ(again->version.minor, 3);
  EXPECT_EQ(again->capabilities.max_msg_fds, 16u);
  EXPECT_EQ(again->capabilities.max_data_xfer_size, 65536u);
  EXPECT_EQ(again->capabilities.max_dma_maps, 12u);
  EXPECT_EQ(again->capabilities.pgsizes, 8192u);
  EXPECT_TRUE(again->capabilities.write_multiple);
}

TEST(Negotiation, TheSmallestReplyIsTheOneThatIsRecommended) {
  const auto payload = build_version({.version = {}, .capabilities = {.max_msg_fds = 16, .twin_socket_fd_index = {}}});
  EXPECT_EQ(payload, payload_of(R"({"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576}})"));
  EXPECT_EQ(payload.size() + 16, 85u);
}

TEST(Negotiation, VU21_FewerThan4BytesAreRefused) {
  for (const std::size_t size : {0u, 1u, 3u}) EXPECT_EQ(error_of(parse_version(testing::pattern(size))), EINVAL);
}

TEST(Negotiation, VU24_TextWithoutNulOrWithMoreBehindItIsRefused) {
  EXPECT_EQ(error_of(parse_version(payload_of("{}", false))), EINVAL);
  EXPECT_EQ(error_of(parse(std::string("{}\0x", 4))), EINVAL);
  EXPECT_EQ(error_of(parse(std::string("{}\0{}", 5))), EINVAL);
  EXPECT_EQ(error_of(parse("{} {}")), EINVAL);
  EXPECT_EQ(error_of(parse("{}x")), EINVAL);
  EXPECT_EQ(error_of(parse("")), EINVAL);
  EXPECT_EQ(error_of(parse(std::string("{}\0\0\0", 5))), 0);  // more NULs say nothing
  EXPECT_EQ(error_of(parse(" {} ")), 0);
}

TEST(Negotiation, VU24_MalformedTextIsRefused) {
  for (const char* json :
       {"{", "}", "nul", "{\"a\"}", "{\"a\":}", "{a:1}", "{'a':1}", "{\"a\":1,}", "[1,]", "\"", "{\"a\":01}",
        "{\"a\":+1}", "{\"a\":.5}", "{\"a\":NaN}", "{\"a\":1e}", "// c\n{}", "{\"\\x\":1}"}) {
    EXPECT_EQ(error_of(parse(json)), EINVAL) << json;
  }
}

TEST(Negotiation, VU25_TheTopMustBeAnObject) {
  for (const char* json : {"[]", "1", "\"a\"", "null", "true", "[{}]", "-1", "1.5"}) {
    EXPECT_EQ(error_of(parse(json)), EINVAL) << json;
  }
}

TEST(Negotiation, VU25_LongTextIsRefused) {
  const std::string padding(max_version_json, ' ');
  EXPECT_EQ(error_of(parse("{}" + padding)), EINVAL);
  EXPECT_EQ(error_of(parse(padding.substr(2) + "{}")), 0);
}

TEST(Negotiation, VU25_DeepTextIsRefused) {
  const auto nested = [](std::size_t depth, const std::string& open, const std::string& close) {
    std::string json;
    for (std::size_t i = 0; i < depth; ++i) json += open;
    json += "1";
    for (std::size_t i = 0; i < depth; ++i) json += close;
    return json;
  };
  EXPECT_EQ(error_of(parse(nested(8, "{\"a\":", "}"))), 0);
  EXPECT_EQ(error_of(parse(nested(9, "{\"a\":", "}"))), EINVAL);
  EXPECT_EQ(error_of(parse(nested(10000, "{\"a\":", "}"))), EINVAL);
  EXPECT_EQ(error_of(parse("{\"a\":" + nested(7, "[", "]") + "}")), 0);
  EXPECT_EQ(error_of(parse("{\"a\":" + nested(8, "[", "]") + "}")), EINVAL);
  EXPECT_EQ(error_of(parse("{\"a\":" + nested(30000, "[", "]") + "}")), EINVAL);
}

TEST(Negotiation, VU25_TextThatIsNotUtf8IsRefused) {
  for (const char* bytes : {"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\x80"}) {
    EXPECT_EQ(error_of(parse("{\"" + std::string(bytes) + "\":1}")), EINVAL);
    EXPECT_EQ(error_of(parse("{\"a\":\"" + std::string(bytes) + "\"}")), EINVAL);
  }
  EXPECT_EQ(error_of(parse("{\"\xe2\x82\xac\":\"\xf0\x9f\x98\x80\"}")), 0);
}

TEST(Negotiation, VU25_AKeyThatComesTwiceIsRefused) {
  EXPECT_EQ(error_of(parse(R"({"capabilities":{},"capabilities":{}})")), EINVAL);
  EXPECT_EQ(error_of(parse(capabilities(R"("max_msg_fds":1,"max_msg_fds":1)"))), EINVAL);
  EXPECT_EQ(error_of(parse(capabilities(R"("max_msg_fds":1,"max_msg_\u0066ds":1)"))), EINVAL);
  EXPECT_EQ(error_of(parse(R"({"x":{"a":1,"a":2}})")), EINVAL);
  EXPECT_EQ(error_of(parse(R"({"x":{"a":1},"y":{"a":2}})")), 0);
}

TEST(Negotiation, VU25_NumbersMustBeIntegersThatFit) {
  for (const char* value : {"-1", "-0", "1.0", "1.5", "1e3", "1e999", "-1e999", "9007199254740993",
                            "18446744073709551615", "18446744073709551616", "99999999999999999999999999"}) {
    EXPECT_EQ(error_of(parse(capabilities("\"max_msg_fds\":" + std::string(value)))), EINVAL) << value;
  }
  const auto largest = parse(capabilities("\"max_data_xfer_size\":9007199254740992"));
  ASSERT_TRUE(largest);
  EXPECT_EQ(largest->capabilities.max_data_xfer_size, UINT64_C(9007199254740992));
  EXPECT_EQ(error_of(parse(R"({"unknown":1e999})")), EINVAL);
}

TEST(Negotiation, VU25_WrongTypesAreRefused) {
  for (const char* key : {"max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes"}) {
    for (const char* value : {"null", "true", "\"1\"", "{}", "[]", "[1]", "{\"a\":1}"}) {
      EXPECT_EQ(error_of(parse(capabilities("\"" + std::string(key) + "\":" + value))), EINVAL) << key << value;
    }
  }
  for (const char* value : {"1", "0", "null", "\"true\"", "{}", "[]"}) {
    EXPECT_EQ(error_of(parse(capabilities("\"write_multiple\":" + std::string(value)))), EINVAL) << value;
  }
  for (const char* value : {"1", "true", "null", "[]", "\"x\"", "{\"supported\":1}", "{\"fd_index\":true}",
                            "{\"fd_index\":-1}", "{\"supported\":{}}"}) {
    EXPECT_EQ(error_of(parse(capabilities("\"twin_socket\":" + std::string(value)))), EINVAL) << value;
  }
  for (const char* value : {"1", "true", "null", "[]"}) {
    EXPECT_EQ(error_of(parse("{\"capabilities\":" + std::string(value) + "}")), EINVAL) << value;
    EXPECT_EQ(error_of(parse(capabilities("\"migration\":" + std::string(value)))), EINVAL) << value;
  }
}

TEST(Negotiation, VU26_UnknownKeysAreIgnored) {
  const auto message = parse(
      R"({"vendor":{"max_msg_fds":-5,"x":[1,2.5,{"max_msg_fds":3}]},"capabilities":{"max_msg_fds":7,"new":{"max_msg_fds":9},)"
      R"("list":[{"write_multiple":3}],"float":0.5,"negative":-1}})");
  ASSERT_TRUE(message) << message.error().message();
  EXPECT_EQ(message->capabilities.max_msg_fds, 7u);
  EXPECT_FALSE(message->capabilities.write_multiple);
}

TEST(Negotiation, VU27_ZeroIsAValue) {
  const auto message = parse(capabilities(R"("max_msg_fds":0,"max_data_xfer_size":0)"));
  ASSERT_TRUE(message);
  EXPECT_EQ(message->capabilities.max_msg_fds, 0u);
  EXPECT_EQ(message->capabilities.max_data_xfer_size, 0u);
}

}  // namespace
}  // namespace outboard::vfio_user
