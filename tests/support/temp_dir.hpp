#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>

namespace outboard::testing {

/// A directory of its own for one test, removed with all that is in it. A failure to make it ends the test program:
/// nothing could be tested.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  /// The path of `name` inside; short enough for a UNIX socket.
  std::string path(std::string_view name) const { return path_ + "/" + std::string(name); }

  /// A new file of `size` zero bytes (sparse), open for reading and writing.
  UniqueFd make_file(std::string_view name, std::uint64_t size) const;

 private:
  std::string path_;
};

/// A memory file of `size` zero bytes, without seals but open to sealing.
UniqueFd make_memfd(std::uint64_t size);
/// The same, sealed against shrinking and growing, as QEMU's memory is.
UniqueFd make_sealed_memfd(std::uint64_t size);

}  // namespace outboard::testing
