#pragma once

#include <sys/types.h>

#include <compare>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include <outboard/memory/dma_space.hpp>
#include <outboard/vfio_user/internal/served_memory.hpp>
#include <outboard/vfio_user/internal/server_connection.hpp>

namespace outboard::vfio_user {

/// A window of the driver's memory, as a server is told of it.
struct ClientMapping {
  memory::IovaRange range;
  MutableBytes bytes;
  memory::Access access{};
  std::shared_ptr<const UniqueFd>
      file;  ///< null: the server reaches it by messages, or `not_kept` says why it is not here
  std::uint64_t offset = 0;
  std::optional<Error> not_kept{};
};

/// Asks a server to map or to unmap a window. `fd`: of its file; null: it has none that the server gets.
Status ask_map(ServerConnection& server, const ClientMapping& mapping, const UniqueFd* fd);
Status ask_unmap(ServerConnection& server, memory::IovaRange range);

/// The client's memory that the function may reach: DMA_MAP and DMA_UNMAP. One thread.
class ClientMemory final : public memory::DmaMapper {
 public:
  /// What a move of the function has to know of: a window that has been mapped, or is about to be unmapped.
  struct Observer {
    std::move_only_function<void(const ClientMapping&)> mapped, unmapping;
  };

  /// `served`: what DMA messages of the server's reach.
  ClientMemory(ServerConnection& connection, ServedMemory& served) : connection_(connection), served_(served) {}

  Status map(memory::IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* fd,
             std::uint64_t offset) override;
  Status unmap(memory::IovaRange range) override;
  memory::DmaSpace::Limits limits() const override;
  /// The client ends: unmaps everything with one message, where that saves any. What a server does not unmap that way goes
  /// window by window.
  void unmap_all();

  /// By their addresses. Valid until the next map() or unmap().
  const std::map<memory::Iova, ClientMapping>& mappings() const { return mappings_; }
  /// The windows lie in other files now, which the server knows.
  void set_files(std::map<memory::Iova, ClientMapping> mappings) { mappings_ = std::move(mappings); }
  /// Null: nobody observes. It outlives its use.
  void observe(Observer* observer) { observer_ = observer; }

 private:
  struct FileKey {
    dev_t device;
    ino_t inode;
    auto operator<=>(const FileKey&) const = default;
  };

  Result<std::shared_ptr<const UniqueFd>> keep_file(const UniqueFd& fd);

  ServerConnection& connection_;
  ServedMemory& served_;
  Observer* observer_ = nullptr;
  std::map<memory::Iova, ClientMapping> mappings_;
  std::map<FileKey, std::weak_ptr<const UniqueFd>> files_;  ///< of the mappings: one descriptor a file
  std::size_t files_in_use_ = 0;  ///< when those that are not were last removed
  bool all_unmapped_ = false;  // the server knows of no window any more
};

}  // namespace outboard::vfio_user
