#pragma once

#include <outboard/storage/backend.hpp>
#include <outboard/storage/internal/file_engine.hpp>

namespace outboard::storage {

/// How a RawFile passes its work to the kernel.
enum class Engine : std::uint8_t {
  automatic,  ///< io_uring if it is permitted, otherwise threads; logged once
  io_uring,
  pool,       ///< preadv and so on, on a few threads
};

/// A raw image file or a block device. Many readers or one writer: the image is locked, see open_image(). Once a flush has
/// failed, every later flush fails, also of back ends that share the storage: what is on the disk is unknown.
class RawFile final : public Backend {
 public:
  struct Options {
    std::string path;
    bool read_only = false;
    /// Bypasses the page cache for every read and write. A transfer that O_DIRECT does not allow goes through aligned memory,
    /// at most AlignedEngine::budget bytes of it for each share. EINVAL: a write that is not whole sectors of 512 bytes. If the
    /// file system does not support O_DIRECT, the whole image goes through the page cache.
    bool direct = false;
    /// Another process uses the image still, and will let it go: it is neither locked nor used before take_back(). ENOTSUP: a
    /// block device.
    bool lent = false;
    Engine engine = Engine::automatic;
    unsigned threads = 4;  ///< 1...64, when they are used
    /// Makes an engine of the caller's in place of `engine`. share() calls it too, on its caller's thread.
    EngineFactory make_engine{};
  };

  /// Errors as open_image(); with Engine::io_uring also those of UringEngine::create().
  static Result<std::unique_ptr<RawFile>> open(Loop& loop, const Options& options, const Log& log);
  ~RawFile() override;

  Geometry geometry() const override;
  std::string description() const override;
  StorageIdentity identity() const override;
  void read(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override;
  void write(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override;
  void flush(Completion done) override;
  void discard(std::uint64_t offset, std::uint64_t length, Completion done) override;
  void write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap, Completion done) override;
  void measure(Measured done) override;
  void set_capacity(std::uint64_t capacity) override;
  Result<std::unique_ptr<Backend>> share(Loop& loop) const override;
  void let_go() override;
  Status take_back() override;
  bool is_lent() const override;
  void submit() override;
  bool poll() override;

 private:
  struct State;
  explicit RawFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace outboard::storage
