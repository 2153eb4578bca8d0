#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace outboard::command {

/// A JSON value for --json. The members of an object keep their order. Implemented with nlohmann's library; only json.cpp
/// includes its header, which takes longer to compile than most verbs.
class Json {
 public:
  struct Member;

  // Implicit, so that an object is written as it is printed: {{"bytes", size}, {"kind", "memory"}}.
  // NOLINTBEGIN(google-explicit-constructor)
  Json(std::nullptr_t = nullptr);
  Json(bool value);
  Json(double value);
  Json(std::int64_t value);
  Json(std::uint64_t value);
  template <std::integral Number>
  Json(Number value) : Json(Widest<Number>{value}) {}
  Json(std::string_view text);
  Json(const std::string& text) : Json(std::string_view(text)) {}
  Json(const char* text) : Json(std::string_view(text)) {}
  /// Null without a value.
  template <typename Value>
  Json(const std::optional<Value>& value) : Json(value ? Json(*value) : Json()) {}
  template <typename Value>
  Json(const std::vector<Value>& values) : Json(array()) {
    for (const Value& value : values) push_back(value);
  }
  Json(std::initializer_list<Member> members);
  // NOLINTEND(google-explicit-constructor)

  static Json array();
  static Json object();

  ~Json();
  Json(const Json& other);
  Json(Json&& other) noexcept;
  Json& operator=(const Json& other);
  Json& operator=(Json&& other) noexcept;

  /// Sets a member of an object: replaces it, or adds it at the end.
  void set(const std::string& name, const Json& value);
  /// Adds an element to an array.
  void push_back(const Json& element);

  // Both end with a newline. Bytes that are not UTF-8, as in a path, become U+FFFD.
  /// One line, for scripts that read values one by one.
  std::string line() const;
  /// Several lines, indented.
  std::string text() const;

 private:
  template <typename Number>
  using Widest = std::conditional_t<std::signed_integral<Number>, std::int64_t, std::uint64_t>;
  struct Value;
  explicit Json(Value value);

  std::unique_ptr<Value> value_;
};

struct Json::Member {
  std::string name;
  Json value;
};

}  // namespace outboard::command
