#include <outboard/storage/null.hpp>

#include <fmt/format.h>

#include <outboard/storage/pieces.hpp>

namespace outboard::storage {

Status check_size(std::uint64_t size, std::string_view what) {
  if (size == 0) return Error(EINVAL, fmt::format("the size of {} is 0", what)).cure("a disk has at least 512 bytes");
  if (size % 512 != 0) {
    return Error(EINVAL, fmt::format("{} of {} bytes: the size must be a multiple of 512", what, size))
        .cure(fmt::format("the next larger one is {}", size - size % 512 + 512));
  }
  return {};
}

Result<std::unique_ptr<Null>> Null::create(std::uint64_t size, bool read_only) {
  OUTBOARD_CHECK(check_size(size, "a null disk"));
  return std::unique_ptr<Null>(new Null({.capacity = size,
                                         .read_only = read_only,
                                         .can_discard = true,
                                         .can_write_zeroes = true,
                                         .can_unmap_zeroes = true}));
}

void Null::read(std::uint64_t /*offset*/, std::span<const iovec> pieces, Completion done) {
  fill_zeros(pieces);
  done(0);
}

void Null::write(std::uint64_t /*offset*/, std::span<const iovec> /*pieces*/, Completion done) { done(write_error()); }

void Null::discard(std::uint64_t /*offset*/, std::uint64_t /*length*/, Completion done) { done(write_error()); }

void Null::write_zeroes(std::uint64_t /*offset*/, std::uint64_t /*length*/, bool /*may_unmap*/, Completion done) {
  done(write_error());
}

Result<std::unique_ptr<Backend>> Null::share(Loop& /*loop*/) const {
  return std::unique_ptr<Backend>(new Null(geometry_));
}

}  // namespace outboard::storage
