#include <outboard/vfio_user/internal/served_memory.hpp>

#include <algorithm>
#include <iterator>

#include <outboard/base/internal/try_resize.hpp>
#include <outboard/vfio_user/internal/message_header.hpp>
#include <outboard/vfio_user/internal/scratch.hpp>

namespace outboard::vfio_user {
namespace {

struct Request {
  spec::DmaAccess access;
  bool reads = false;
  Bytes data;  // of a write
};

Result<Request> parse(const Message& command, std::uint64_t max_transfer) {
  if (!command.fds.empty() || command.fds_lost) return Error(EINVAL, "a DMA message with file descriptors");
  ByteReader reader(command.payload);
  OUTBOARD_TRY(const auto access, reader.read<spec::DmaAccess>());
  Request request{.access = access, .data = reader.rest()};
  request.reads = command.header.command == static_cast<std::uint16_t>(spec::Command::dma_read);
  if (access.count > max_transfer) return Error(E2BIG, "a DMA message beyond the agreed size");
  if (!request.reads && access.count != request.data.size()) {
    return Error(EINVAL, "a DMA_WRITE whose data are not as long as it says");
  }
  return request;
}

}  // namespace

void ServedMemory::add(const memory::IovaRange& range, std::byte* memory, memory::Access access) {
  windows_.insert_or_assign(raw(range.start), Window{range, memory, access});
}

void ServedMemory::remove(const memory::IovaRange& range) { windows_.erase(raw(range.start)); }

/// The pieces of host memory behind a range. EFAULT: not mapped; EPERM: mapped without this access.
Result<std::vector<ServedMemory::Piece>> ServedMemory::find(const memory::IovaRange& range,
                                                            memory::Access access) const {
  std::vector<Piece> pieces;
  if (!range.well_formed()) return Error(EFAULT, "a DMA message that goes beyond the last address");
  std::uint64_t at = raw(range.start);
  std::uint64_t left = range.size;
  while (left != 0) {
    auto next = windows_.upper_bound(at);
    if (next == windows_.begin()) return Error(EFAULT, "a DMA message for memory that is not mapped");
    const Window& window = std::prev(next)->second;
    if (!window.range.contains({memory::Iova{at}, 1})) {
      return Error(EFAULT, "a DMA message to memory that is not mapped");
    }
    if (!allows(window.access, access)) return Error(EPERM, "a DMA message that the memory does not allow");
    const std::uint64_t rest = raw(window.range.last()) - at;
    const std::uint64_t size = left - 1 < rest ? left : rest + 1;
    pieces.push_back({window.memory + (at - raw(window.range.start)), size});
    at += size;
    left -= size;
  }
  return pieces;
}

Status ServedMemory::access(const Message& command, Channel& channel) {
  const ScratchUse use(scratch_);
  const auto request = parse(command, max_transfer_);
  if (!request) return refuse(command, channel, request.error());
  std::vector<Piece> pieces;
  if (request->access.count != 0) {
    // All pieces are found before any is touched, so a refused command has no effect.
    auto found = find({memory::Iova{request->access.address}, request->access.count},
                      request->reads ? memory::Access::read : memory::Access::write);
    if (!found) return refuse(command, channel, found.error());
    pieces = std::move(*found);
  }
  if (request->reads && !command.wants_reply()) return {};
  const std::size_t size =
      sizeof(spec::Header) + sizeof(spec::DmaAccess) + (request->reads ? request->access.count : 0);
  if (auto room = try_resize(scratch_, size); !room) return refuse(command, channel, room.error());
  const spec::Header header = reply_header(command.header, scratch_.size() - sizeof(spec::Header));
  copy_bytes(as_bytes_of(header), scratch_);
  copy_bytes(as_bytes_of(request->access), MutableBytes(scratch_).subspan(sizeof header));
  std::size_t done = 0;
  for (const Piece& piece : pieces) {
    if (request->reads) {
      std::memcpy(scratch_.data() + sizeof header + sizeof request->access + done, piece.data, piece.size);
    } else {
      std::memcpy(piece.data, request->data.data() + done, piece.size);
    }
    done += piece.size;
  }
  if (!request->reads && written_ && request->access.count != 0)
    written_({memory::Iova{request->access.address}, request->access.count});
  if (!command.wants_reply()) return {};
  return channel.send(scratch_);
}

Status ServedMemory::serve(const Message& command, Channel& channel) {
  switch (static_cast<spec::Command>(command.header.command)) {
    case spec::Command::dma_read:
    case spec::Command::dma_write:
      return access(command, channel);
    default:
      return refuse(command, channel, Error(ENOSYS, "the server sent a command that clients do not take"));
  }
}

Status ServedMemory::refuse(const Message& command, Channel& channel, const Error& error) const {
  if (!command.wants_reply()) return {};
  return channel.send(as_bytes_of(error_header(command.header, error.code())));
}

}  // namespace outboard::vfio_user
