#include <tools/outboard/json.hpp>

#include <utility>

#include <nlohmann/json.hpp>

namespace outboard::command {

using nlohmann::ordered_json;

struct Json::Value {
  ordered_json json;
};

namespace {

std::string dump(const ordered_json& json, int indent) {
  return json.dump(indent, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

Json::Json(Value value) : value_(std::make_unique<Value>(std::move(value))) {}
Json::Json(std::nullptr_t) : Json(Value{nullptr}) {}
Json::Json(bool value) : Json(Value{value}) {}
Json::Json(double value) : Json(Value{value}) {}
Json::Json(std::int64_t value) : Json(Value{value}) {}
Json::Json(std::uint64_t value) : Json(Value{value}) {}
Json::Json(std::string_view text) : Json(Value{text}) {}
Json::Json(std::initializer_list<Member> members) : Json(object()) {
  for (const Member& member : members) set(member.name, member.value);
}

Json Json::array() { return Json(Value{ordered_json::array()}); }
Json Json::object() { return Json(Value{ordered_json::object()}); }

Json::~Json() = default;
Json::Json(const Json& other) : Json(*other.value_) {}
Json::Json(Json&& other) noexcept = default;
Json& Json::operator=(const Json& other) { return *this = Json(other); }
Json& Json::operator=(Json&& other) noexcept = default;

void Json::set(const std::string& name, const Json& value) { value_->json[name] = value.value_->json; }
void Json::push_back(const Json& element) { value_->json.push_back(element.value_->json); }

std::string Json::line() const { return dump(value_->json, -1); }
std::string Json::text() const { return dump(value_->json, 2); }

}  // namespace outboard::command
