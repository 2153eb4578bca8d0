#include <outboard/vfio_user/internal/message_descriptors.hpp>

#include <cstring>
#include <string>

#include <outboard/vfio_user/internal/message_header.hpp>

namespace outboard::vfio_user {
namespace {

constexpr std::size_t header_size = sizeof(spec::Header);
/// No message that brings descriptors is shorter: SET_IRQS has so many bytes, DMA_MAP 48, the replies that bring files 48 and
/// more.
constexpr std::size_t min_size_with_fds = 36;
static_assert(min_size_with_fds <= header_size + sizeof(vfio_abi::IrqSet) &&
              min_size_with_fds <= header_size + sizeof(spec::DmaMap));
/// Linux keeps a send of so many bytes together, whatever SO_SNDBUF the sender has set (2,240 bytes at least). A longer one may
/// be cut, and its descriptors go with the first piece.
constexpr std::size_t max_whole_send = 2048;

spec::Header header_at(Bytes bytes, std::size_t offset) {
  spec::Header header;
  std::memcpy(&header, bytes.data() + offset, header_size);
  return header;
}

bool begins_with_reply(Bytes bytes) { return bytes.size() >= header_size && is_reply(header_at(bytes, 0)); }

/// The offset of the last message, if those before it are too short to bring descriptors.
Result<std::size_t> last_message(Bytes bytes) {
  std::size_t at = 0;
  while (bytes.size() - at >= header_size) {
    const std::size_t size = header_at(bytes, at).msg_size;
    // The last one; or none, which Channel::ready() tells.
    if (size < header_size || size >= bytes.size() - at) break;
    if (size >= min_size_with_fds) return Error(EPROTO, "file descriptors came with more messages than one");
    at += size;
  }
  return at;
}

}  // namespace

Result<std::size_t> owner_of_descriptors(Bytes bytes, std::size_t received) {
  OUTBOARD_TRY(const std::size_t owner, last_message(bytes));
  // Replies that bring many files are long. No command with descriptors is.
  if (received <= max_whole_send || (owner == 0 && begins_with_reply(bytes))) return owner;
  return Error(EPROTO, "file descriptors came with a send of more than " + std::to_string(max_whole_send) + " bytes");
}

void attach_fds(msghdr& message, DescriptorBuffer& buffer, std::span<const int> fds) {
  message.msg_control = buffer.bytes.data();
  message.msg_controllen = CMSG_SPACE(fds.size_bytes());
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
}

std::vector<UniqueFd> take_fds(msghdr& message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr; control = CMSG_NXTHDR(&message, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(control) + i * sizeof fd, sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace outboard::vfio_user
