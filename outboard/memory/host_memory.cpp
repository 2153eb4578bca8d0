#include <outboard/memory/host_memory.hpp>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <limits>

#include <outboard/base/internal/process_memory.hpp>
#include <outboard/base/internal/system_calls.hpp>
#include <outboard/memory/fault_guard.hpp>
#include <outboard/memory/internal/fault_registry.hpp>

namespace outboard::memory {

struct HostMemory::FileFacts {
  std::uint64_t size = 0;
  std::uint64_t page_size = 0;
  bool pages_stay = false;  ///< whether every page within `size` is there for good
};

namespace {

/// HostMemory::FileFacts, whose name is private.
template <typename Facts>
Result<Facts> examine(int fd) {
  Facts facts;
  // The seal first: it cannot be taken off again, so the size that is read after it is the least the file will ever
  // have.
  const int seals = ::fcntl(fd, F_GET_SEALS);
  struct stat info{};
  if (::fstat(fd, &info) < 0) return Error::from_errno("examining a memory file");
  if (!S_ISREG(info.st_mode)) return Error(EINVAL, "the descriptor is neither a regular file nor a memory file");
  struct statfs system{};
  // A seccomp profile may forbid asking. Huge pages show in the size of a block; other files may have large ones too, and then
  // are held to the same rules.
  const bool huge = ::fstatfs(fd, &system) == 0 ? static_cast<std::uint64_t>(system.f_type) == HUGETLBFS_MAGIC
                                                : info.st_blksize > static_cast<blksize_t>(outboard::page_size());
  facts.size = static_cast<std::uint64_t>(info.st_size);
  facts.page_size = static_cast<std::uint64_t>(huge ? info.st_blksize : static_cast<blksize_t>(outboard::page_size()));
  facts.pages_stay = seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && !huge;
  return facts;
}

Status check_access(int fd, Access access) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return Error::from_errno("examining a memory file");
  const int mode = flags & O_ACCMODE;
  if (mode == O_WRONLY) return Error(EACCES, "the memory file is open for writing only");
  if (mode == O_RDONLY && allows(access, Access::write)) {
    return Error(EACCES, "the memory file is open for reading only, and the device was to write to it");
  }
  return {};
}

Status check_range(std::uint64_t file_size, std::uint64_t offset, std::uint64_t size) {
  if (size == 0) return Error(EINVAL, "a mapping of 0 bytes was requested");
  if (offset % outboard::page_size() != 0) return Error(EINVAL, "the offset in the memory file is not page-aligned");
  if (!range_within(offset, size, file_size)) {
    return Error(EINVAL, "the memory file has " + std::to_string(file_size) + " bytes; mapping " +
                             std::to_string(size) + " at offset " + std::to_string(offset) +
                             " would go beyond its end");
  }
  return {};
}

std::uint64_t round_down(std::uint64_t value, std::uint64_t page) { return value / page * page; }

/// Value of a file size or below, so adding a page cannot wrap: off_t is signed.
std::uint64_t round_up(std::uint64_t value, std::uint64_t page) { return round_down(value + page - 1, page); }

}  // namespace

Result<std::shared_ptr<HostMemory>> HostMemory::map_file(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size,
                                                         Access access) {
  OUTBOARD_TRY(const FileFacts file, examine<FileFacts>(fd.get()));
  OUTBOARD_CHECK(check_range(file.size, offset, size));
  OUTBOARD_CHECK(check_access(fd.get(), access));
  return map_pages(fd.get(), file, offset, size, access);
}

Status HostMemory::check_file(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size, Access access) {
  OUTBOARD_TRY(const FileFacts file, examine<FileFacts>(fd.get()));
  OUTBOARD_CHECK(check_range(file.size, offset, size));
  OUTBOARD_CHECK(check_access(fd.get(), access));
  return check_pages(file);
}

Result<std::shared_ptr<HostMemory>> HostMemory::map_driver_file(const UniqueFd& fd, std::uint64_t offset,
                                                                std::uint64_t size, Access access) {
  constexpr auto max_offset = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
  const FileFacts file{
      .size = max_offset - outboard::page_size(), .page_size = outboard::page_size(), .pages_stay = false};
  OUTBOARD_CHECK(check_range(file.size, offset, size));
  OUTBOARD_CHECK(check_access(fd.get(), access));
  return map_pages(fd.get(), file, offset, size, access);
}

Result<std::shared_ptr<HostMemory>> HostMemory::map_own_file(const UniqueFd& fd, std::uint64_t offset,
                                                             std::uint64_t size, Access access) {
  OUTBOARD_TRY(FileFacts file, examine<FileFacts>(fd.get()));
  file.pages_stay = true;
  OUTBOARD_CHECK(check_range(file.size, offset, size));
  OUTBOARD_CHECK(check_access(fd.get(), access));
  return map_pages(fd.get(), file, offset, size, access);
}

Status HostMemory::check_pages(const FileFacts& file) {
  if (file.pages_stay || fault_guard_installed()) return {};
  return Error(ENOTSUP, "the memory file could be truncated while it is mapped, and no fault guard is installed")
      .cure("call memory::install_fault_guard() in the program that serves, or seal the file with F_SEAL_SHRINK");
}

Result<std::shared_ptr<HostMemory>> HostMemory::map_pages(int fd, const FileFacts& file, std::uint64_t offset,
                                                          std::uint64_t size, Access access) {
  OUTBOARD_CHECK(check_pages(file));
  if (!fault_guard_has_its_spares()) {
    return Error(ENOMEM, "the process has as many mappings as the kernel allows")
        .cure("raise vm.max_map_count, or use fewer memory files");
  }
  // Pages are mapped whole. An offset inside a huge page is usual: a VMM has a hole at 640 KiB.
  const std::uint64_t begin = round_down(offset, file.page_size);
  const std::uint64_t length = round_up(offset + size, file.page_size) - begin;
  const int protection = allows(access, Access::write) ? PROT_READ | PROT_WRITE : PROT_READ;
  // Without MAP_NORESERVE, huge pages would be set aside for all of the range, also where the client has none.
  void* mapped =
      system_calls().map(nullptr, length, protection, MAP_SHARED | MAP_NORESERVE, fd, static_cast<off_t>(begin));
  if (mapped == MAP_FAILED) return Error::from_errno("mapping a memory file");
  auto* base = static_cast<std::byte*>(mapped);
  ::madvise(mapped, length, MADV_DONTDUMP);  // a guest's memory has no place in our core file

  std::shared_ptr<HostMemory> memory(new HostMemory(base + (offset - begin), size));
  memory->mapped_ = MutableBytes(base, length);
  memory->slot_ = &FaultRegistry::instance().add({base, length, file.page_size, protection});
  memory->poison_ = &memory->slot_->mark();
  return memory;
}

Status HostMemory::replace_file(const UniqueFd& fd, std::uint64_t offset, Access access) {
  OUTBOARD_TRY(const FileFacts file, examine<FileFacts>(fd.get()));
  OUTBOARD_CHECK(check_range(file.size, offset, size_));
  OUTBOARD_CHECK(check_access(fd.get(), access));
  OUTBOARD_CHECK(check_pages(file));
  const std::uint64_t begin = round_down(offset, file.page_size);
  const std::uint64_t length = round_up(offset + size_, file.page_size) - begin;
  if (slot_ == nullptr || length != mapped_.size() ||
      data_ - mapped_.data() != static_cast<std::ptrdiff_t>(offset - begin))
    return Error(ENOTSUP, "the file has pages of another size than the one whose place it is to take");
  const int protection = allows(access, Access::write) ? PROT_READ | PROT_WRITE : PROT_READ;
  void* mapped = system_calls().map(mapped_.data(), length, protection, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
                                    fd.get(), static_cast<off_t>(begin));
  if (mapped == MAP_FAILED) return Error::from_errno("mapping a memory file in the place of another one");
  ::madvise(mapped, length, MADV_DONTDUMP);
  slot_->set({mapped_.data(), length, file.page_size, protection});
  return {};
}

Result<std::shared_ptr<HostMemory>> HostMemory::anonymous(std::uint64_t size) {
  if (size == 0) return Error(EINVAL, "0 bytes of memory were requested");
  if (size > static_cast<std::uint64_t>(std::numeric_limits<std::ptrdiff_t>::max())) {
    return Error(ENOMEM, "asking for " + std::to_string(size) + " bytes of memory");
  }
  void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return Error::from_errno("asking for " + std::to_string(size) + " bytes of memory");
  std::shared_ptr<HostMemory> memory(new HostMemory(static_cast<std::byte*>(mapped), size));
  memory->mapped_ = MutableBytes(memory->data_, size);
  return memory;
}

std::shared_ptr<HostMemory> HostMemory::borrowed(MutableBytes bytes) {
  return std::shared_ptr<HostMemory>(new HostMemory(bytes.data(), bytes.size()));
}

HostMemory::~HostMemory() {
  if (slot_ != nullptr) FaultRegistry::instance().remove(*slot_);
  if (mapped_.empty()) return;
  system_calls().unmap(mapped_.data(), mapped_.size());
  // What cannot be taken back now is when the next one goes.
  [[maybe_unused]] const bool complete = slot_ == nullptr || fault_guard_has_its_spares();
}

}  // namespace outboard::memory
