#include <outboard/storage/ram.hpp>

#include <sys/mman.h>

#include <fmt/format.h>

#include <outboard/base/internal/process_memory.hpp>
#include <outboard/storage/null.hpp>
#include <outboard/storage/pieces.hpp>

namespace outboard::storage {

/// The pages. Two queues may write the same sector at once, as on any disk; which wins is not defined.
class Ram::Memory {
 public:
  static Result<std::shared_ptr<Memory>> map(std::uint64_t size) {
    void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
      return Error::from_errno(fmt::format("a ram disk of {} bytes", size)).cure("choose a smaller size");
    return std::make_shared<Memory>(static_cast<std::byte*>(at), size);
  }
  Memory(std::byte* data, std::uint64_t size) : data_(data), size_(size) {}
  ~Memory() { ::munmap(data_, size_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::byte* at(std::uint64_t offset) const { return data_ + offset; }

  /// Zeroes a range. Whole pages are given back: that costs what was written before, however much of a disk a driver asks
  /// to have zeroed and how often; writing zeros would keep the loop busy for seconds, and take memory.
  void zero(std::uint64_t offset, std::uint64_t length) const {
    const std::uint64_t page = page_size();
    const std::uint64_t first = (offset + page - 1) / page * page;
    const std::uint64_t last = (offset + length) / page * page;
    if (first >= last || ::madvise(at(first), last - first, MADV_DONTNEED) != 0) {
      std::memset(at(offset), 0, length);
      return;
    }
    std::memset(at(offset), 0, first - offset);
    std::memset(at(last), 0, offset + length - last);
  }

 private:
  std::byte* data_;
  std::uint64_t size_;
};

Ram::Ram(std::shared_ptr<Memory> memory, const Geometry& geometry) : memory_(std::move(memory)), geometry_(geometry) {}

Result<std::unique_ptr<Ram>> Ram::create(std::uint64_t size, bool read_only) {
  OUTBOARD_CHECK(check_size(size, "a ram disk"));
  OUTBOARD_TRY(auto memory, Memory::map(size));
  return std::unique_ptr<Ram>(new Ram(std::move(memory), {.capacity = size,
                                                          .physical_block = 4096,
                                                          .read_only = read_only,
                                                          .can_discard = true,
                                                          .can_write_zeroes = true,
                                                          .can_unmap_zeroes = true}));
}

void Ram::read(std::uint64_t offset, std::span<const iovec> pieces, Completion done) {
  for_each_piece(pieces, [&](std::uint64_t at, MutableBytes piece) {
    if (!piece.empty()) std::memcpy(piece.data(), memory_->at(offset + at), piece.size());
  });
  done(0);
}

void Ram::write(std::uint64_t offset, std::span<const iovec> pieces, Completion done) {
  if (geometry_.read_only) return done(EROFS);
  for_each_piece(pieces, [&](std::uint64_t at, MutableBytes piece) {
    if (!piece.empty()) std::memcpy(memory_->at(offset + at), piece.data(), piece.size());
  });
  done(0);
}

void Ram::discard(std::uint64_t offset, std::uint64_t length, Completion done) {
  return write_zeroes(offset, length, true, std::move(done));
}

void Ram::write_zeroes(std::uint64_t offset, std::uint64_t length, bool /*may_unmap*/, Completion done) {
  if (geometry_.read_only) return done(EROFS);
  memory_->zero(offset, length);
  done(0);
}

Result<std::unique_ptr<Backend>> Ram::share(Loop& /*loop*/) const {
  return std::unique_ptr<Backend>(new Ram(memory_, geometry_));
}

}  // namespace outboard::storage
