#include <outboard/vfio_user/internal/dma_commands.hpp>

namespace outboard::vfio_user {
namespace {

Error invalid(const char* why) { return Error(EINVAL, why); }

Result<spec::DmaMap> parse_map(Bytes payload) {
  namespace flag = vfio_abi::dma_map_flag;
  OUTBOARD_TRY(const auto map, ByteReader(payload).read<spec::DmaMap>());
  if (map.argsz < sizeof map) return invalid("DMA_MAP: argsz is too small");
  if ((map.flags & ~(flag::read | flag::write)) != 0) return invalid("DMA_MAP: unknown flags");
  if (map.flags == 0) return invalid("DMA_MAP: the memory may be neither read nor written");
  if (map.size == 0 || !memory::IovaRange{memory::Iova{map.address}, map.size}.well_formed()) {
    return invalid("DMA_MAP: the range is empty or goes beyond the last address");
  }
  if ((map.address | map.size) % spec::default_pgsizes != 0) return invalid("DMA_MAP: the range is not page-aligned");
  return map;
}

}  // namespace

Result<memory::Mapping> mapping_for(Bytes payload, std::vector<UniqueFd> fds, memory::SharedFiles& files,
                                    std::shared_ptr<memory::MemoryPort> messages) {
  OUTBOARD_TRY(const auto map, parse_map(payload));
  if (fds.size() > 1) return invalid("DMA_MAP: more than one file descriptor");
  memory::Mapping mapping{.range = {memory::Iova{map.address}, map.size},
                          .access = static_cast<memory::Access>(map.flags)};
  static_assert(static_cast<unsigned>(memory::Access::read) == vfio_abi::dma_map_flag::read &&
                static_cast<unsigned>(memory::Access::write) == vfio_abi::dma_map_flag::write);
  if (fds.empty()) {
    mapping.port = std::move(messages);
    return mapping;
  }
  auto window = files.map(fds.front(), map.offset, map.size, mapping.access);
  if (!window) return std::move(window).error().while_doing("DMA_MAP");
  mapping.memory = std::move(window->memory);
  mapping.offset = window->offset;
  mapping.file = std::make_shared<const UniqueFd>(std::move(fds.front()));
  mapping.file_offset = map.offset;
  return mapping;
}

Result<UnmapRequest> parse_unmap(Bytes payload) {
  namespace flag = vfio_abi::dma_unmap_flag;
  OUTBOARD_TRY(const auto unmap, ByteReader(payload).read<spec::DmaUnmap>());
  if (unmap.argsz < sizeof unmap) return invalid("DMA_UNMAP: argsz is too small");
  if ((unmap.flags & ~(flag::get_dirty_bitmap | flag::all)) != 0) return invalid("DMA_UNMAP: unknown flags");
  if ((unmap.flags & flag::get_dirty_bitmap) != 0) return Error(ENOTSUP, "DMA_UNMAP: dirty bitmaps are not kept");
  UnmapRequest request{.echo = unmap, .range = {memory::Iova{unmap.address}, unmap.size}};
  request.all = (unmap.flags & flag::all) != 0;
  if (request.all && (unmap.address != 0 || unmap.size != 0)) return invalid("DMA_UNMAP: all, and a range");
  if (!request.all && !request.range.well_formed()) return invalid("DMA_UNMAP: the range is empty or wraps");
  return request;
}

}  // namespace outboard::vfio_user
