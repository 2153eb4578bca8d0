#include "record.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstring>
#include <utility>

#include <fmt/format.h>

#include <outboard/base/fd.hpp>

namespace outboard::witness {

namespace {

Result<MutableBytes> map(const UniqueFd& fd, std::uint64_t size, const std::string& path) {
  void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (mapped == MAP_FAILED) return Error::from_errno("mapping").on(path);
  return MutableBytes(static_cast<std::byte*>(mapped), size);
}

/// The words of a block: the number and the place are in clear, so that a wrong block says where it comes from.
std::uint64_t word(std::uint64_t block, std::uint32_t number, std::size_t index) {
  if (clears(number)) return 0;
  if (index == 0) return block << 32 | number;
  std::uint64_t mixed = (block << 32 | number) * 0x9e37'79b9'7f4a'7c15 + index;
  mixed ^= mixed >> 29;
  return mixed * 0xbf58'476d'1ce4'e5b9;
}

}  // namespace

Result<Record> Record::create(const std::string& path, std::uint64_t blocks) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(file_size(blocks))) != 0)
    return Error::from_errno("creating").on(path);
  OUTBOARD_TRY(const MutableBytes bytes, map(fd, file_size(blocks), path));
  Record record(bytes);
  record.header().magic = expected_magic;
  record.header().blocks = blocks;
  return record;
}

Result<Record> Record::open(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  struct stat status{};
  if (!fd || ::fstat(fd.get(), &status) != 0) return Error::from_errno("opening").on(path);
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size < sizeof(Header)) return Error(EINVAL, "not a record").on(path);
  OUTBOARD_TRY(const MutableBytes bytes, map(fd, size, path));
  Record record(bytes);
  if (record.header().magic != expected_magic || file_size(record.blocks()) != size)
    return Error(EINVAL, "not a record").on(path);
  return record;
}

Record::Record(Record&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

Record::~Record() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

void fill(std::uint64_t block, std::uint32_t number, MutableBytes bytes) {
  for (std::size_t i = 0; i < block_size / 8; ++i) {
    const std::uint64_t value = word(block, number, i);
    std::memcpy(bytes.data() + 8 * i, &value, 8);
  }
}

bool holds(std::uint64_t block, std::uint32_t number, Bytes bytes) {
  for (std::size_t i = 0; i < block_size / 8; ++i) {
    const std::uint64_t value = word(block, number, i);
    if (std::memcmp(bytes.data() + 8 * i, &value, 8) != 0) return false;
  }
  return true;
}

std::string describe(std::uint64_t block, Bytes bytes) {
  std::uint64_t first = 0;
  std::memcpy(&first, bytes.data(), 8);
  const auto number = static_cast<std::uint32_t>(first);
  if (holds(block, 0, bytes)) return "zeroes";
  if (holds(first >> 32, number, bytes)) return fmt::format("what write {} left in block {}", number, first >> 32);
  std::size_t same = 0;
  while (same < block_size / 8) {
    const std::uint64_t value = word(first >> 32, number, same);
    if (std::memcmp(bytes.data() + 8 * same, &value, 8) != 0) break;
    ++same;
  }
  if (same == 0) return "what no write has left";
  return fmt::format("what write {} left in block {} up to byte {}, then something else", number, first >> 32,
                     8 * same);
}

}  // namespace outboard::witness
