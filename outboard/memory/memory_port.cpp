#include <outboard/memory/memory_port.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <limits>

namespace outboard::memory {
namespace {

/// Where `length` bytes at `address` lie in the file. EFAULT when they are not all there: a write must never lengthen a
/// client's file.
Result<off_t> place_in_file(int fd, Iova start, std::uint64_t offset, Iova address, std::uint64_t length) {
  if (address < start) return Error(EFAULT, "the address lies before the window");
  const auto place = checked_add(offset, raw(address) - raw(start));
  struct stat info{};
  if (::fstat(fd, &info) < 0) return Error::from_errno("examining a memory file");
  if (!place || !range_within(*place, length, static_cast<std::uint64_t>(info.st_size))) {
    return Error(EFAULT, "the memory file has become too short");
  }
  return static_cast<off_t>(*place);
}

/// Calls `transfer(done)`, which moves some of the bytes from `done` on, until `length` have been moved.
template <typename Transfer>
Status repeat(std::uint64_t length, Transfer&& transfer) {
  std::uint64_t done = 0;
  while (done < length) {
    const ssize_t moved = transfer(done);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return Error::from_errno("accessing a memory file");
    if (moved == 0) return Error(EFAULT, "the memory file has become too short");
    done += static_cast<std::uint64_t>(moved);
  }
  return {};
}

}  // namespace

void FilePort::read(Iova address, MutableBytes into, Completion done) {
  const auto place = place_in_file(fd_.get(), start_, offset_, address, into.size());
  if (!place) return done(place.error());
  done(repeat(into.size(), [&](std::uint64_t at) {
    return ::pread(fd_.get(), into.data() + at, into.size() - at, *place + static_cast<off_t>(at));
  }));
}

void FilePort::write(Iova address, Bytes from, Completion done) {
  const auto place = place_in_file(fd_.get(), start_, offset_, address, from.size());
  if (!place) return done(place.error());
  done(repeat(from.size(), [&](std::uint64_t at) {
    return ::pwrite(fd_.get(), from.data() + at, from.size() - at, *place + static_cast<off_t>(at));
  }));
}

}  // namespace outboard::memory
