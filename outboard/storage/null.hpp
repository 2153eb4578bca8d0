#pragma once

#include <outboard/storage/backend.hpp>

namespace outboard::storage {

/// A disk without storage: writes are dropped, reads give zeros (never the old content of memory). For measuring everything
/// except the storage. Completions are called inside the call.
class Null final : public Backend {
 public:
  /// `size` in bytes. EINVAL: 0, or not a multiple of 512.
  static Result<std::unique_ptr<Null>> create(std::uint64_t size, bool read_only = false);

  Geometry geometry() const override { return geometry_; }
  StorageIdentity identity() const override {
    return {.contents = StorageIdentity::Contents::zeros, .size = geometry_.capacity};
  }
  std::string description() const override { return "null"; }
  void read(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override;
  void write(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override;
  void flush(Completion done) override { done(0); }
  void discard(std::uint64_t offset, std::uint64_t length, Completion done) override;
  void write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap, Completion done) override;
  Result<std::unique_ptr<Backend>> share(Loop& loop) const override;

 private:
  explicit Null(const Geometry& geometry) : geometry_(geometry) {}
  int write_error() const { return geometry_.read_only ? EROFS : 0; }

  Geometry geometry_;
};

/// Checks a size in bytes: not 0, and whole sectors. `what` names the thing in the message.
Status check_size(std::uint64_t size, std::string_view what);

}  // namespace outboard::storage
