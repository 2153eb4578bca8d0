#pragma once

#include <functional>
#include <map>
#include <vector>

#include <outboard/memory/iova.hpp>
#include <outboard/vfio_user/internal/channel.hpp>

namespace outboard::vfio_user {

/// The client's memory that its server reaches by messages: serves DMA_READ and DMA_WRITE on the windows that are mapped, and
/// refuses every other command of the server. One thread.
class ServedMemory {
 public:
  explicit ServedMemory(std::uint64_t max_transfer) : max_transfer_(max_transfer) {}

  void set_max_transfer(std::uint64_t bytes) { max_transfer_ = bytes; }
  /// Adds a window that the server may use until remove(); `memory` stays the caller's. Windows do not overlap.
  void add(const memory::IovaRange& range, std::byte* memory, memory::Access access);
  void remove(const memory::IovaRange& range);
  /// `written`: told of each range that the server has written by a message. Empty: nobody is.
  void observe(std::move_only_function<void(const memory::IovaRange&)> written) { written_ = std::move(written); }
  std::size_t windows() const { return windows_.size(); }
  /// Bytes of the buffer for replies.
  std::size_t scratch_size() const { return scratch_.capacity(); }

  /// Serves the command and replies. An error ends the connection.
  Status serve(const Message& command, Channel& channel);

 private:
  struct Window {
    memory::IovaRange range;
    std::byte* memory;
    memory::Access access;
  };
  struct Piece {
    std::byte* data;
    std::uint64_t size;
  };

  Status access(const Message& command, Channel& channel);
  Result<std::vector<Piece>> find(const memory::IovaRange& range, memory::Access access) const;
  Status refuse(const Message& command, Channel& channel, const Error& error) const;

  std::map<std::uint64_t, Window> windows_;  // by their first address
  std::uint64_t max_transfer_;
  std::move_only_function<void(const memory::IovaRange&)> written_;
  std::vector<std::byte> scratch_;
};

}  // namespace outboard::vfio_user
