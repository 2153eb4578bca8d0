#pragma once

#include <functional>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/memory/iova.hpp>

namespace outboard::memory {

/// A way to memory that is not mapped here: messages to the client, or system calls on its file. One transfer is at
/// most max_transfer() bytes. Called on the device's control loop; completions come on the same loop, exactly once,
/// possibly from inside the call. `into`/`from` must stay valid until then.
class MemoryPort {
 public:
  using Completion = std::move_only_function<void(Status)>;

  virtual ~MemoryPort() = default;
  virtual void read(Iova address, MutableBytes into, Completion done) = 0;
  virtual void write(Iova address, Bytes from, Completion done) = 0;
  virtual std::uint64_t max_transfer() const = 0;
};

/// A client's file that is not safe to map (it may be truncated): pread and pwrite instead, answered at once.
class FilePort final : public MemoryPort {
 public:
  /// `start` is the I/O address that stands for `offset` of the file.
  FilePort(UniqueFd fd, Iova start, std::uint64_t offset) : fd_(std::move(fd)), start_(start), offset_(offset) {}

  void read(Iova address, MutableBytes into, Completion done) override;
  void write(Iova address, Bytes from, Completion done) override;
  std::uint64_t max_transfer() const override { return UINT64_C(1) << 20; }

 private:
  UniqueFd fd_;
  Iova start_;
  std::uint64_t offset_;
};

}  // namespace outboard::memory
