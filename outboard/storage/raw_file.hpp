#pragma once

#include <outboard/storage/backend.hpp>
#include <outboard/storage/file_engine.hpp>

namespace outboard::storage {

/// How a RawFile has the kernel do its work.
enum class Engine : std::uint8_t {
  automatic,  ///< io_uring where it is permitted, else threads; said once in the log
  io_uring,
  pool,       ///< preadv and so on, on a few threads
};

/// A raw image file or a block device. Many readers or one that writes: the image is locked, see open_image. Once a flush
/// has failed every later one fails too, on what was shared as well: nobody can tell what is on the disk.
class RawFile final : public Backend {
 public:
  struct Options {
    std::string path;
    bool read_only = false;
    /// Past the page cache, every read and write: what the storage does not take as it is goes through aligned memory, at most
    /// AlignedEngine::budget bytes of it for each share. EINVAL for writes of anything but whole sectors of 512 bytes. Where the
    /// file system does not do it, the whole image goes through the page cache.
    bool direct = false;
    Engine engine = Engine::automatic;
    unsigned threads = 4;  ///< 1...64, when they are used
    /// Makes the engine, instead of `engine`: one of the caller's own. share() calls it too, on the thread it is called on.
    EngineFactory make_engine{};
  };

  /// Errors as open_image; with Engine::io_uring also those of UringEngine::create.
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
  void submit() override;
  bool poll() override;

 private:
  struct State;
  explicit RawFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace outboard::storage
