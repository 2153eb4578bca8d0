#include <outboard/vfio_user/internal/client_memory.hpp>

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
using spec::Command;

std::uint32_t dma_flags(memory::Access access) {
  return (allows(access, memory::Access::read) ? abi::dma_map_flag::read : 0) |
         (allows(access, memory::Access::write) ? abi::dma_map_flag::write : 0);
}

}  // namespace

Status ClientMemory::map(memory::IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* fd,
                         std::uint64_t offset) {
  OUTBOARD_CHECK(connection_.may_wait());
  const bool by_file = fd != nullptr && connection_.server().max_msg_fds != 0;
  const spec::DmaMap message{.argsz = sizeof(spec::DmaMap),
                             .flags = dma_flags(access),
                             .offset = by_file ? offset : 0,
                             .address = raw(range.start),
                             .size = range.size};
  const int attached = by_file ? fd->get() : -1;
  // Before the server knows of it: it may use it before its reply is here.
  served_.add(range, memory.data(), access);
  const auto mapped = ask(connection_.requests(), {.command = Command::dma_map,
                                                   .head = as_bytes_of(message),
                                                   .fds = std::span<const int>(&attached, by_file ? 1 : 0),
                                                   .max_reply = sizeof message});
  if (mapped) return {};
  served_.remove(range);
  return Error(mapped.error()).while_doing("mapping memory for DMA").on(connection_.name());
}

Status ClientMemory::ask_unmap(const spec::DmaUnmap& message) {
  return ask(connection_.requests(),
             {.command = Command::dma_unmap, .head = as_bytes_of(message), .max_reply = sizeof message});
}

void ClientMemory::unmap_all() {
  if (served_.windows() < 2 || !connection_.may_wait()) return;
  const auto unmapped =
      ask_unmap({.argsz = sizeof(spec::DmaUnmap), .flags = abi::dma_unmap_flag::all, .address = 0, .size = 0});
  all_unmapped_ = unmapped.has_value();
  if (!unmapped) {
    connection_.options().log.debug("{}: memory is unmapped window by window: {}", connection_.name(),
                                    unmapped.error().message());
  }
}

Status ClientMemory::unmap(memory::IovaRange range) {
  if (all_unmapped_) {
    served_.remove(range);
    return {};
  }
  OUTBOARD_CHECK(connection_.may_wait());
  const auto unmapped =
      ask_unmap({.argsz = sizeof(spec::DmaUnmap), .flags = 0, .address = raw(range.start), .size = range.size});
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
