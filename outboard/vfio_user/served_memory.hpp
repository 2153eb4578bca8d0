#pragma once

#include <map>
#include <vector>

#include <outboard/memory/iova.hpp>
#include <outboard/vfio_user/channel.hpp>

namespace outboard::vfio_user {

/// The client's memory as its server may reach it by messages: answers DMA_READ and DMA_WRITE from the windows that
/// have been mapped, and every other command of the server with an error. One thread.
class ServedMemory {
 public:
  explicit ServedMemory(std::uint64_t max_transfer) : max_transfer_(max_transfer) {}

  void set_max_transfer(std::uint64_t bytes) { max_transfer_ = bytes; }
  /// From now on the server may use this; `memory` stays the caller's, until remove(). Windows do not overlap.
  void add(const memory::IovaRange& range, std::byte* memory, memory::Access access);
  void remove(const memory::IovaRange& range);
  std::size_t windows() const { return windows_.size(); }
  /// Bytes of memory that are kept for answers.
  std::size_t scratch_size() const { return scratch_.capacity(); }

  /// Does what the command asks and answers it. An error is the end of the connection.
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
  std::vector<std::byte> scratch_;
};

}  // namespace outboard::vfio_user
