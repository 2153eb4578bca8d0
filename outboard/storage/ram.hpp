#pragma once

#include <outboard/storage/backend.hpp>

namespace outboard::storage {

/// A disk in this process's memory, lost at its end. Sparse: a write allocates memory; discard and write_zeroes free it.
/// Completions are called inside the call.
class Ram final : public Backend {
 public:
  /// `size` in bytes. EINVAL: 0, or not a multiple of 512; ENOMEM: more than can be addressed.
  static Result<std::unique_ptr<Ram>> create(std::uint64_t size, bool read_only = false);

  Geometry geometry() const override { return geometry_; }
  StorageIdentity identity() const override {
    return {.contents = StorageIdentity::Contents::memory, .size = geometry_.capacity};
  }
  std::string description() const override { return "ram"; }
  void read(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override;
  void write(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override;
  void flush(Completion done) override { done(0); }
  void discard(std::uint64_t offset, std::uint64_t length, Completion done) override;
  void write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap, Completion done) override;
  Result<std::unique_ptr<Backend>> share(Loop& loop) const override;

 private:
  class Memory;
  Ram(std::shared_ptr<Memory> memory, const Geometry& geometry);

  std::shared_ptr<Memory> memory_;
  Geometry geometry_;
};

}  // namespace outboard::storage
