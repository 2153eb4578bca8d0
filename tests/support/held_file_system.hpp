#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <sys/types.h>

#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>

namespace outboard::testing {

/// A file system (FUSE) with one file, `disk`, whose calls of one kind are answered when the test wants it. Served by a
/// process of its own, mounted nowhere; gone with the object. A call that is held for 10 seconds is answered then, and
/// gave_up() tells: whoever waits for it in the thread of the test has waited that long.
class HeldFileSystem {
 public:
  enum class Call : std::uint32_t {
    none = 0,
    getattr = 3,
    open = 14,
    read = 15,
    write = 16,
    fsync = 20,
    flush = 25,
    fallocate = 43
  };

  /// EPERM and the like where this process may not mount, ENOENT where the kernel has no FUSE.
  /// `preferred_block` is what its files say suits them best (st_blksize).
  static Result<std::unique_ptr<HeldFileSystem>> create(std::uint64_t size, std::uint32_t preferred_block = 4096);
  ~HeldFileSystem();
  HeldFileSystem(const HeldFileSystem&) = delete;
  HeldFileSystem& operator=(const HeldFileSystem&) = delete;

  std::string disk() const;
  /// Calls of this kind that come from now on wait for release().
  void hold(Call call);
  void release();
  /// How many calls are being held.
  unsigned holding() const;
  bool gave_up() const;

 private:
  struct Shared;
  HeldFileSystem() = default;

  Shared* shared_ = nullptr;
  EventFd wake_;
  UniqueFd mount_;
  pid_t server_ = -1;
};

}  // namespace outboard::testing
