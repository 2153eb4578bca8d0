#include <outboard/memory/internal/shared_file.hpp>

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include <outboard/base/internal/process_memory.hpp>

namespace outboard::memory {
namespace {

/// Address space for `size` bytes at a multiple of `alignment`: more is reserved, and what is too much given back.
Result<std::byte*> reserve(std::uint64_t size, std::uint64_t alignment) {
  const std::uint64_t page = outboard::page_size();
  const std::uint64_t spare = alignment > page ? alignment : 0;
  void* mapped = ::mmap(nullptr, size + spare, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return Error::from_errno("reserving addresses for DMA memory");
  auto* base = static_cast<std::byte*>(mapped);
  if (spare == 0) return base;
  const std::uint64_t head = (alignment - reinterpret_cast<std::uintptr_t>(base) % alignment) % alignment;
  if (head != 0) ::munmap(base, head);
  if (spare != head) ::munmap(base + head + size, spare - head);
  return base + head;
}

Error no_memory_file(Error error) {
  if (error.code() != EPERM && error.code() != ENOSYS) return error;
  return std::move(error).cure("have the filter of system calls allow memfd_create");
}

}  // namespace

Result<SharedFile> SharedFile::create(std::uint64_t size, std::uint64_t alignment, bool huge) {
  const unsigned kind = huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
  UniqueFd fd(system_calls().make_memory_file("outboard-dma", MFD_CLOEXEC | MFD_ALLOW_SEALING | kind));
  if (!fd) return no_memory_file(Error::from_errno("creating a memory file for DMA"));
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) < 0) return Error::from_errno("sizing a memory file for DMA");
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
    return Error::from_errno("sealing a memory file for DMA");
  }
  OUTBOARD_TRY(std::byte * base, reserve(size, huge ? std::max(alignment, huge_page) : alignment));
  SharedFile file(std::move(fd), MutableBytes(base, size));
  if (system_calls().map(base, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.fd_.get(), 0) == MAP_FAILED) {
    return Error::from_errno("mapping a memory file for DMA");
  }
  return file;
}

}  // namespace outboard::memory
