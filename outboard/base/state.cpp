#include <outboard/base/state.hpp>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include <outboard/base/internal/printable.hpp>

namespace outboard {

namespace {

std::string name_of(StateTag tag) {
  const le32 stored = static_cast<std::uint32_t>(tag);
  std::string name(sizeof stored, '\0');
  std::memcpy(name.data(), &stored, sizeof stored);
  return printable(name);
}

Error malformed_section(StateTag tag, const std::string& what) {
  return Error(EINVAL, fmt::format("the saved state is not valid: section '{}': {}", name_of(tag), what));
}

}  // namespace

// Writing.

StateWriter::Section StateWriter::section(StateTag tag, std::uint16_t version) {
  const std::size_t at = bytes_.size();
  const StateSection head{.tag = static_cast<std::uint32_t>(tag), .version = version, .reserved = 0, .length = 0};
  append(as_bytes_of(head));
  return {*this, at};
}

void StateWriter::end_section(std::size_t at) {
  if (is_too_large_) return;
  const le32 length = static_cast<std::uint32_t>(bytes_.size() - at - sizeof(StateSection));
  std::memcpy(bytes_.data() + at + offsetof(StateSection, length), &length, sizeof length);
}

void StateWriter::put_bytes(Bytes bytes) {
  put(static_cast<std::uint32_t>(std::min(bytes.size(), max_size)));
  append(bytes);
}

void StateWriter::append(Bytes bytes) {
  is_too_large_ = is_too_large_ || bytes.size() > max_size - bytes_.size();
  if (!is_too_large_) bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

Result<std::vector<std::byte>> StateWriter::finish() && {
  if (is_too_large_) return Error(EFBIG, fmt::format("the state is larger than {} bytes", max_size));
  return std::move(bytes_);
}

// Reading.

Result<StateReader> StateReader::open(Bytes state, StateTag tag, std::uint16_t max_version) {
  if (state.size() > StateWriter::max_size)
    return Error(EFBIG, fmt::format("the saved state is larger than {} bytes", StateWriter::max_size));
  ByteReader all(state);
  OUTBOARD_TRY(const StateReader reader, take(all, tag, max_version));
  if (all.remaining() != 0) return malformed_section(tag, "more follows");
  return reader;
}

Result<StateReader> StateReader::take(ByteReader& from, StateTag tag, std::uint16_t max_version) {
  const auto head = from.read<StateSection>();
  if (!head) return malformed_section(tag, "it is missing");
  const StateTag found{std::uint32_t{head->tag}};
  if (found != tag) return malformed_section(tag, fmt::format("'{}' is in its place", name_of(found)));
  if (head->version == 0 || head->reserved != 0) return malformed_section(tag, "its head makes no sense");
  if (head->version > max_version)
    return Error(
        ENOTSUP,
        fmt::format("the saved state is of a newer version of the program: section '{}' has version {}, and up "
                    "to {} is known",
                    name_of(tag), std::uint16_t{head->version}, max_version));
  const auto body = from.take(head->length);
  if (!body) return malformed_section(tag, "it is too short");
  return StateReader(tag, head->version, *body);
}

Result<bool> StateReader::get_flag() {
  OUTBOARD_TRY(const auto value, get<std::uint8_t>());
  if (value > 1) return malformed(fmt::format("{} is neither true nor false", value));
  return value == 1;
}

Result<Bytes> StateReader::get_bytes(std::size_t max) {
  OUTBOARD_TRY(const auto length, get<std::uint32_t>());
  if (length > max) return malformed(fmt::format("{} bytes are more than {}", length, max));
  const auto bytes = rest_.take(length);
  if (!bytes) return too_short();
  return *bytes;
}

Result<StateReader> StateReader::section(StateTag tag, std::uint16_t max_version) {
  return take(rest_, tag, max_version);
}

Status StateReader::end() const {
  if (rest_.remaining() != 0) return malformed(fmt::format("{} bytes are left over", rest_.remaining()));
  return {};
}

Error StateReader::malformed(const std::string& what) const { return malformed_section(tag_, what); }

}  // namespace outboard
