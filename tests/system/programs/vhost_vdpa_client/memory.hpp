#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>

namespace outboard::vhost {

/// A memory file, mapped, that nothing keeps from shrinking.
class MemoryFile {
 public:
  static Result<std::unique_ptr<MemoryFile>> create(std::size_t size) {
    UniqueFd fd(::memfd_create("client", MFD_CLOEXEC));
    if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return Error::from_errno("creating a memory file");
    void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (mapped == MAP_FAILED) return Error::from_errno("mapping a memory file");
    return std::unique_ptr<MemoryFile>(new MemoryFile(std::move(fd), {static_cast<std::byte*>(mapped), size}));
  }
  ~MemoryFile() { ::munmap(bytes_.data(), bytes_.size()); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  MutableBytes bytes() const { return bytes_; }
  Status truncate(std::size_t size) const {
    if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) return Error::from_errno("truncating a memory file");
    return {};
  }

 private:
  MemoryFile(UniqueFd fd, MutableBytes bytes) : fd_(std::move(fd)), bytes_(bytes) {}
  UniqueFd fd_;
  MutableBytes bytes_;
};

}  // namespace outboard::vhost
