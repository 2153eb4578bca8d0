#include <outboard/vfio_user/internal/negotiation.hpp>

#include <set>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace outboard::vfio_user {
namespace {

constexpr std::size_t max_depth = 8;
constexpr std::uint64_t max_integer = UINT64_C(1) << 53;  // what every JSON implementation can carry

/// Listens to the parser and fills in Capabilities; no tree is built. Returning false ends the parse.
class CapabilityReader {
 public:
  using Json = nlohmann::json;
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  explicit CapabilityReader(Capabilities& into) : into_(into) {}
  const std::string& problem() const { return problem_; }

  bool null() { return other("null"); }
  bool boolean(bool value) {
    if (bool* flag = flag_here()) {
      *flag = value;
      return scalar();
    }
    return other("a boolean");
  }
  bool number_integer(number_integer_t) { return other("a negative number"); }
  bool number_unsigned(number_unsigned_t value) {
    if (!number_wanted()) return other("a number");
    if (value > max_integer) return fail("a number above 2^53");
    store(value);
    return scalar();
  }
  bool number_float(number_float_t, const string_t&) { return other("a number that is no integer"); }
  bool string(string_t&) { return other("a string"); }
  bool binary(binary_t&) { return fail("binary data"); }

  bool start_object(std::size_t) {
    if (!path_.empty() && expected_here() && !object_wanted()) return other("an object");
    return open();
  }
  bool end_object() { return close(); }
  bool start_array(std::size_t) {
    if (path_.empty()) return fail("an array instead of an object");
    if (expected_here()) return other("an array");
    return open();
  }
  bool end_array() { return close(); }
  bool key(string_t& name) {
    if (!path_.back().seen.insert(name).second) return fail("the same key twice");
    path_.back().key = name;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) {
    return fail("malformed JSON");
  }

 private:
  struct Level {
    std::string key;
    std::set<std::string> seen;
  };

  std::string_view key() const { return path_.back().key; }
  bool in_capabilities() const { return path_.size() >= 2 && path_[0].key == "capabilities"; }
  bool in_twin_socket() const { return path_.size() == 3 && in_capabilities() && path_[1].key == "twin_socket"; }

  std::uint64_t* number_here() {
    if (path_.size() != 2 || !in_capabilities()) return nullptr;
    if (key() == "max_msg_fds") return &into_.max_msg_fds;
    if (key() == "max_data_xfer_size") return &into_.max_data_xfer_size;
    if (key() == "max_dma_maps") return &into_.max_dma_maps;
    if (key() == "pgsizes") return &into_.pgsizes;
    return nullptr;
  }
  bool fd_index_here() const { return in_twin_socket() && key() == "fd_index"; }
  bool number_wanted() { return number_here() != nullptr || fd_index_here(); }
  void store(std::uint64_t value) {
    if (std::uint64_t* number = number_here()) *number = value;
    if (fd_index_here()) into_.twin_socket_fd_index = value;
  }
  bool* flag_here() {
    if (path_.size() == 2 && in_capabilities() && key() == "write_multiple") return &into_.write_multiple;
    if (in_twin_socket() && key() == "supported") return &into_.twin_socket;
    return nullptr;
  }
  bool object_wanted() const {
    if (path_.size() == 1) return key() == "capabilities";
    return path_.size() == 2 && in_capabilities() && (key() == "twin_socket" || key() == "migration");
  }
  bool expected_here() { return number_wanted() || flag_here() != nullptr || object_wanted(); }

  /// A value of a type that no capability of ours has: fine where the key is unknown.
  bool other(const char* type) {
    if (path_.empty()) return fail(std::string(type) + " instead of an object");
    if (expected_here()) return fail(std::string(type) + " for \"" + path_.back().key + "\"");
    return scalar();
  }
  static bool scalar() { return true; }
  bool open() {
    if (path_.size() == max_depth) return fail("objects nested too deep");
    path_.emplace_back();
    return true;
  }
  bool close() {
    path_.pop_back();
    return true;
  }
  bool fail(std::string problem) {
    if (problem_.empty()) problem_ = std::move(problem);
    return false;
  }

  Capabilities& into_;
  std::vector<Level> path_;
  std::string problem_;
};

Error refused(const std::string& why) { return Error(EINVAL, "the VERSION message has " + why); }

/// The text before the NULs at the end.
Result<std::string_view> json_text(Bytes rest) {
  const std::string_view text(reinterpret_cast<const char*>(rest.data()), rest.size());
  if (text.back() != '\0') return refused("JSON that does not end in a NUL");
  const std::size_t last = text.find_last_not_of('\0');
  const std::string_view trimmed = last == std::string_view::npos ? std::string_view{} : text.substr(0, last + 1);
  if (trimmed.size() > max_version_json) return refused("JSON of more than 64 KiB");
  // The parser takes a NUL for the end of its input, and would not see what comes after it.
  if (trimmed.find('\0') != std::string_view::npos) return refused("bytes behind the JSON");
  return trimmed;
}

}  // namespace

Result<VersionMessage> parse_version(Bytes payload) {
  ByteReader reader(payload);
  OUTBOARD_TRY(const auto version, reader.read<spec::Version>());
  VersionMessage message{.version = version, .capabilities = {}};
  if (reader.remaining() == 0) return message;
  OUTBOARD_TRY(const std::string_view text, json_text(reader.rest()));
  CapabilityReader listener(message.capabilities);
  if (!nlohmann::json::sax_parse(text, &listener)) {
    return refused(listener.problem().empty() ? "malformed JSON" : listener.problem());
  }
  return message;
}

std::vector<std::byte> build_version(const VersionMessage& message) {
  const Capabilities& has = message.capabilities;
  std::string json = "{\"capabilities\":{\"max_msg_fds\":" + std::to_string(has.max_msg_fds) +
                     ",\"max_data_xfer_size\":" + std::to_string(has.max_data_xfer_size);
  if (has.max_dma_maps != spec::default_max_dma_maps) json += ",\"max_dma_maps\":" + std::to_string(has.max_dma_maps);
  if (has.pgsizes != spec::default_pgsizes) json += ",\"pgsizes\":" + std::to_string(has.pgsizes);
  if (has.write_multiple) json += ",\"write_multiple\":true";
  if (has.twin_socket) {
    json += ",\"twin_socket\":{\"supported\":true";
    if (has.twin_socket_fd_index) json += ",\"fd_index\":" + std::to_string(*has.twin_socket_fd_index);
    json += "}";
  }
  json += "}}";
  std::vector<std::byte> payload;
  const Bytes version = as_bytes_of(message.version);
  payload.assign(version.begin(), version.end());
  const Bytes text = std::as_bytes(std::span(json.c_str(), json.size() + 1));
  payload.insert(payload.end(), text.begin(), text.end());
  return payload;
}

}  // namespace outboard::vfio_user
