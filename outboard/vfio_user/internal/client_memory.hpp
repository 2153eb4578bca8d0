#pragma once

#include <outboard/memory/dma_space.hpp>
#include <outboard/vfio_user/internal/served_memory.hpp>
#include <outboard/vfio_user/internal/server_connection.hpp>

namespace outboard::vfio_user {

/// The client's memory that the function may reach: DMA_MAP and DMA_UNMAP. One thread.
class ClientMemory final : public memory::DmaMapper {
 public:
  /// `served`: what DMA messages of the server's reach.
  ClientMemory(ServerConnection& connection, ServedMemory& served) : connection_(connection), served_(served) {}

  Status map(memory::IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* fd,
             std::uint64_t offset) override;
  Status unmap(memory::IovaRange range) override;
  memory::DmaSpace::Limits limits() const override;
  /// The client ends: unmaps everything with one message, where that saves any. What a server does not unmap that way goes
  /// window by window.
  void unmap_all();

 private:
  Status ask_unmap(const spec::DmaUnmap& message);

  ServerConnection& connection_;
  ServedMemory& served_;
  bool all_unmapped_ = false;  // the server knows of no window any more
};

}  // namespace outboard::vfio_user
