#include <outboard/vfio_user/internal/client_memory.hpp>

#include <sys/stat.h>

#include <utility>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
using spec::Command;

std::uint32_t dma_flags(memory::Access access) {
  return (allows(access, memory::Access::read) ? abi::dma_map_flag::read : 0) |
         (allows(access, memory::Access::write) ? abi::dma_map_flag::write : 0);
}

Status ask_unmap(ServerConnection& server, const spec::DmaUnmap& message) {
  return ask(server.requests(),
             {.command = Command::dma_unmap, .head = as_bytes_of(message), .max_reply = sizeof message});
}

}  // namespace

Status ask_map(ServerConnection& server, const ClientMapping& mapping, const UniqueFd* fd) {
  const bool by_file = fd != nullptr && server.server().max_msg_fds != 0;
  const spec::DmaMap message{.argsz = sizeof(spec::DmaMap),
                             .flags = dma_flags(mapping.access),
                             .offset = by_file ? mapping.offset : 0,
                             .address = raw(mapping.range.start),
                             .size = mapping.range.size};
  const int attached = by_file ? fd->get() : -1;
  return ask(server.requests(), {.command = Command::dma_map,
                                 .head = as_bytes_of(message),
                                 .fds = std::span<const int>(&attached, by_file ? 1 : 0),
                                 .max_reply = sizeof message});
}

Status ask_unmap(ServerConnection& server, memory::IovaRange range) {
  return ask_unmap(server,
                   {.argsz = sizeof(spec::DmaUnmap), .flags = 0, .address = raw(range.start), .size = range.size});
}

/// Most drivers map many parts of a few files.
Result<std::shared_ptr<const UniqueFd>> ClientMemory::keep_file(const UniqueFd& fd) {
  struct stat facts{};
  if (::fstat(fd.get(), &facts) < 0) return Error::from_errno("looking at a memory file");
  if (files_.size() >= 2 * files_in_use_ + 16) {
    std::erase_if(files_, [](const auto& each) { return each.second.expired(); });
    files_in_use_ = files_.size();
  }
  auto& known = files_[{.device = facts.st_dev, .inode = facts.st_ino}];
  if (auto file = known.lock()) return file;
  OUTBOARD_TRY(UniqueFd copy, fd.duplicate());
  auto file = std::make_shared<const UniqueFd>(std::move(copy));
  known = file;
  return file;
}

Status ClientMemory::map(memory::IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* fd,
                         std::uint64_t offset) {
  OUTBOARD_CHECK(connection_.may_wait());
  ClientMapping mapping{.range = range, .bytes = memory, .access = access, .file = nullptr, .offset = offset};
  if (!connection_.options().share_memory) fd = nullptr;
  if (fd != nullptr) {
    // Out of descriptors, the memory is mapped all the same, but the function cannot be moved.
    auto kept = keep_file(*fd);
    if (kept) {
      mapping.file = std::move(*kept);
    } else {
      mapping.not_kept = kept.error();
    }
  }
  // Before the server knows of it: it may use it before its reply is here.
  served_.add(range, memory.data(), access);
  if (const auto mapped = ask_map(connection_, mapping, fd); !mapped) {
    served_.remove(range);
    return Error(mapped.error()).while_doing("mapping memory for DMA").on(connection_.name());
  }
  const auto at = mappings_.insert_or_assign(range.start, std::move(mapping)).first;
  if (observer_ != nullptr) observer_->mapped(at->second);
  return {};
}

void ClientMemory::unmap_all() {
  if (mappings_.size() < 2 || !connection_.may_wait()) return;
  const auto unmapped = ask_unmap(
      connection_, {.argsz = sizeof(spec::DmaUnmap), .flags = abi::dma_unmap_flag::all, .address = 0, .size = 0});
  all_unmapped_ = unmapped.has_value();
  if (!unmapped) {
    connection_.options().log.debug("{}: memory is unmapped window by window: {}", connection_.name(),
                                    unmapped.error().message());
  }
}

Status ClientMemory::unmap(memory::IovaRange range) {
  const auto mapping = mappings_.extract(range.start);
  if (all_unmapped_) {
    served_.remove(range);
    return {};
  }
  OUTBOARD_CHECK(connection_.may_wait());
  if (observer_ != nullptr && mapping) observer_->unmapping(mapping.mapped());
  const auto unmapped = ask_unmap(connection_, range);
  // Whatever the server says: the memory is going.
  served_.remove(range);
  if (unmapped) return {};
  return Error(unmapped.error()).while_doing("unmapping DMA memory").on(connection_.name());
}

memory::DmaSpace::Limits ClientMemory::limits() const {
  const Capabilities& server = connection_.server();
  return {.page_size = server.pgsizes & (~server.pgsizes + 1),
          .max_mappings = server.max_dma_maps,
          .valid = memory::DmaSpace::Limits::all_but_first_page(),
          .device_holds_pages = true};
}

}  // namespace outboard::vfio_user
