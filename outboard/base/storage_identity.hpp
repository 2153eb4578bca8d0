#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/result.hpp>

namespace outboard {

/// What stands behind a device, told to whoever takes the device over after a crash: the driver goes on with a file system in
/// its caches, and other storage under it would be damaged.
struct StorageIdentity {
  /// What is left of the contents when the process ends.
  enum class Contents : std::uint8_t {
    none,  ///< there is no storage
    zeros,  ///< nothing is ever kept, and every read gives zeros: one such disk is as good as another
    memory,  ///< nothing: they are memory of the process
    kept,  ///< all
  };

  Contents contents = Contents::none;
  std::uint64_t size = 0;  ///< bytes
  /// The same text for the same storage, and for no other: not the name of a file, under which another file may lie later.
  /// At most max_id bytes.
  std::string id{};
  std::string name{};  ///< for people; at most max_name bytes are kept of it

  // What is known here and now, and not kept:
  std::uint64_t device = 0;  ///< dev_t of the block device that it is, or that has its file system; 0: unknown
  bool page_cache = false;  ///< writes go through the page cache of this kernel

  static constexpr std::size_t max_id = 256;
  static constexpr std::size_t max_name = 512;
  /// The most bytes that encode() gives.
  static constexpr std::size_t max_encoded = 24 + max_id + max_name;

  /// Bytes of a layout that is versioned, for decode() in another process.
  std::vector<std::byte> encode() const;
  /// EBADMSG: no such bytes; ENOTSUP: of a later version.
  static Result<StorageIdentity> decode(Bytes bytes);
};

/// Whether a device that had `before` behind it can go on with `now`. ESTALE: the storage is another one, or smaller than it
/// was; or its contents ended with the process. Larger storage is well: a driver can be told that a disk has grown.
Status check_same_storage(const StorageIdentity& before, const StorageIdentity& now);

}  // namespace outboard
