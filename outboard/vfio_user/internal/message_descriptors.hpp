#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/vfio_user/protocol.hpp>

/// File descriptors that travel with messages (SCM_RIGHTS), and which of several messages those that have come belong to.
namespace outboard::vfio_user {

/// Room for the descriptors of one message.
struct alignas(cmsghdr) DescriptorBuffer {
  std::array<std::byte, CMSG_SPACE(sizeof(int) * spec::kernel_max_fds)> bytes;
};

/// Makes `message` bring `fds`, which stay the caller's; at most spec::kernel_max_fds. `buffer` is used until it is sent.
void attach_fds(msghdr& message, DescriptorBuffer& buffer, std::span<const int> fds);

/// Takes ownership of every descriptor that came with a recvmsg.
std::vector<UniqueFd> take_fds(msghdr& message);

/// The offset in `bytes` of the message that received descriptors belong to. `bytes` begin with a message, and end with the
/// last `received` bytes, which came with the descriptors in one recvmsg: so they end where the send ends that brought the
/// descriptors, or with a piece of it. EPROTO: it cannot be known.
///
/// Where that send begins is not known either. So the descriptors belong to the last message, if those before it are too short
/// to bring any. And Linux keeps only sends of up to 2,048 bytes together: in a longer one, which only a reply may be, more
/// messages may follow than are seen.
Result<std::size_t> owner_of_descriptors(Bytes bytes, std::size_t received);

}  // namespace outboard::vfio_user
