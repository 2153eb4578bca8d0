#include <outboard/memory/all_ones.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace outboard::memory {

UniqueFd file_of_ones(std::uint64_t size) {
  UniqueFd fd(::memfd_create("outboard-revoked", MFD_CLOEXEC));
  const std::vector<std::byte> ones(size, std::byte{0xff});
  if (fd && ::pwrite(fd.get(), ones.data(), ones.size(), 0) != static_cast<ssize_t>(size)) fd.reset();
  return fd;
}

bool cover_with_ones(MutableBytes window) {
  // A few pages, mapped over and over: a window may be large.
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t chunk = std::min<std::uint64_t>(window.size(), 16 * page);
  if (chunk == 0) return true;
  const UniqueFd ones = file_of_ones(chunk);
  if (!ones) return false;
  while (!window.empty()) {
    const std::uint64_t size = std::min<std::uint64_t>(chunk, window.size());
    if (::mmap(window.data(), size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, ones.get(), 0) == MAP_FAILED) {
      return false;
    }
    window = window.subspan(size);
  }
  return true;
}

}  // namespace outboard::memory
