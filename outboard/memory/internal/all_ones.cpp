#include <outboard/memory/internal/all_ones.hpp>

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include <outboard/base/internal/process_memory.hpp>

namespace outboard::memory {
namespace {

/// A process has 65530 mappings (vm.max_map_count), and the ones of each window take up memory.
constexpr std::uint64_t max_pieces = 8192, max_piece = UINT64_C(2) << 20;

std::uint64_t size_of(const UniqueFd* file) {
  struct stat info{};
  if (file == nullptr || !*file || ::fstat(file->get(), &info) != 0) return 0;
  return static_cast<std::uint64_t>(info.st_size);
}

}  // namespace

UniqueFd file_of_ones(std::uint64_t size) {
  UniqueFd fd(::memfd_create("outboard-revoked", MFD_CLOEXEC));
  const std::vector<std::byte> ones(size, std::byte{0xff});
  if (fd && ::pwrite(fd.get(), ones.data(), ones.size(), 0) != static_cast<ssize_t>(size)) fd.reset();
  return fd;
}

bool cover_with_ones(MutableBytes window, const UniqueFd* spare) {
  if (window.empty()) return true;
  // A few pages, mapped over and over: a window may be large.
  constexpr int protection = PROT_READ | PROT_WRITE;
  const std::uint64_t page = page_size();
  const std::uint64_t wanted = std::clamp<std::uint64_t>(window.size() / 256 / page * page, 16 * page, max_piece);
  const UniqueFd own = file_of_ones(std::min<std::uint64_t>(window.size(), wanted));
  const UniqueFd* const ones = own ? &own : spare;
  const std::uint64_t piece = size_of(ones);
  for (std::uint64_t i = 0; i < max_pieces && piece != 0 && !window.empty(); ++i) {
    const std::uint64_t size = std::min<std::uint64_t>(piece, window.size());
    if (::mmap(window.data(), size, protection, MAP_PRIVATE | MAP_FIXED, ones->get(), 0) == MAP_FAILED) break;
    window = window.subspan(size);
  }
  if (window.empty()) return true;
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  return ::mmap(window.data(), window.size(), protection, flags, -1, 0) != MAP_FAILED;
}

}  // namespace outboard::memory
