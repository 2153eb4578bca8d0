#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/result.hpp>

namespace outboard {

/// Identifies the storage of a device, for a server that takes the device over after a crash. The driver still has data of a
/// file system in its caches, so other storage would be damaged.
struct StorageIdentity {
  /// What remains of the contents when the process ends.
  enum class Contents : std::uint8_t {
    none,  ///< there is no storage
    zeros,  ///< there are no contents: every read returns zeros, so all such disks are equal
    memory,  ///< nothing: the contents are in memory of the process
    kept,  ///< everything
  };

  Contents contents = Contents::none;
  std::uint64_t size = 0;  ///< bytes
  /// Identifies the storage: equal for the same storage and for no other. Not the name of a file, since another file may have
  /// that name later. At most max_id bytes.
  std::string id{};
  std::string name{};  ///< for messages; encode() keeps at most max_name bytes of it

  // Of this process; encode() leaves it out:
  std::uint64_t device = 0;  ///< dev_t of the block device itself, or of the one with its file system; 0: unknown
  bool page_cache = false;  ///< writes go through the page cache of this kernel

  static constexpr std::size_t max_id = 256;
  static constexpr std::size_t max_name = 512;
  /// The maximum size of encode().
  static constexpr std::size_t max_encoded = 24 + max_id + max_name;

  /// Bytes in a versioned layout, for decode() in another process.
  std::vector<std::byte> encode() const;
  /// EBADMSG: not bytes of encode(); ENOTSUP: a later version.
  static Result<StorageIdentity> decode(Bytes bytes);
};

/// Whether a device whose storage was `before` can continue with `now`. ESTALE: `now` is other storage, or smaller, or the
/// contents ended with the process. Larger storage is accepted: the driver can be notified that the disk has grown.
Status check_same_storage(const StorageIdentity& before, const StorageIdentity& now);

}  // namespace outboard
