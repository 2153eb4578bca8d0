#include <outboard/base/internal/storage_identity.hpp>

#include <algorithm>

#include <fmt/format.h>

#include <outboard/base/endian.hpp>

namespace outboard {

namespace {

/// In front of the id and the name.
struct Layout {
  le32 version;
  le32 contents;
  le64 size;
  le32 id_length;
  le32 name_length;
};
static_assert(sizeof(Layout) == 24);
constexpr std::uint32_t version = 1;

using Contents = StorageIdentity::Contents;

std::string described(const StorageIdentity& storage) {
  switch (storage.contents) {
    case Contents::none:
      return "no storage";
    case Contents::zeros:
      return fmt::format("a null disk of {} bytes", storage.size);
    case Contents::memory:
      return fmt::format("memory of its server, {} bytes", storage.size);
    case Contents::kept:
      break;
  }
  return fmt::format("{}, {} bytes", storage.name, storage.size);
}

Error other(const StorageIdentity& before, const StorageIdentity& now, std::string_view what) {
  const std::string was = described(before), is = described(now);
  if (was == is)
    return Error(ESTALE, fmt::format("{}: the device had {}; this is another file of that name and size", what, was));
  return Error(ESTALE, fmt::format("{}: the device had {}; now it has {}", what, was, is));
}

}  // namespace

std::vector<std::byte> StorageIdentity::encode() const {
  // What a path ends with tells more than what it begins with.
  const std::string_view kept = std::string_view(name).substr(name.size() - std::min(name.size(), max_name));
  const std::string_view kept_id = std::string_view(id).substr(0, max_id);
  const Layout head{.version = version,
                    .contents = static_cast<std::uint32_t>(contents),
                    .size = size,
                    .id_length = static_cast<std::uint32_t>(kept_id.size()),
                    .name_length = static_cast<std::uint32_t>(kept.size())};
  std::vector<std::byte> bytes;
  for (const Bytes part : {as_bytes_of(head), std::as_bytes(std::span(kept_id)), std::as_bytes(std::span(kept))})
    bytes.insert(bytes.end(), part.begin(), part.end());
  return bytes;
}

Result<StorageIdentity> StorageIdentity::decode(Bytes bytes) {
  const Error damaged(EBADMSG, "the identity of the storage is damaged");
  ByteReader reader(bytes);
  const auto head = reader.read<Layout>();
  if (!head) return damaged;
  if (head->version != version)
    return Error(ENOTSUP, fmt::format("the identity of the storage has version {}, and this program knows version {}",
                                      std::uint32_t{head->version}, version));
  const std::uint32_t contents = head->contents;
  if (contents > static_cast<std::uint32_t>(Contents::kept) || head->id_length > max_id || head->name_length > max_name)
    return damaged;
  const auto id = reader.take(head->id_length);
  if (!id) return damaged;
  const auto name = reader.take(head->name_length);
  if (!name || reader.remaining() != 0) return damaged;
  const auto text = [](Bytes from) {
    std::string made(from.size(), '\0');
    std::ranges::transform(from, made.begin(), [](std::byte byte) { return static_cast<char>(byte); });
    return made;
  };
  return StorageIdentity{
      .contents = static_cast<Contents>(contents), .size = head->size, .id = text(*id), .name = text(*name)};
}

Status check_same_storage(const StorageIdentity& before, const StorageIdentity& now) {
  if (before.contents == Contents::memory)
    return Error(ESTALE, fmt::format("the device had {}: its contents ended with that process", described(before)));
  if (before.contents != now.contents || before.id != now.id) return other(before, now, "it is other storage");
  if (now.size < before.size) return other(before, now, "the storage has become smaller");
  return {};
}

}  // namespace outboard
