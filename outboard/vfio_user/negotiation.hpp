#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/vfio_user/protocol.hpp>

namespace outboard::vfio_user {

/// What one side says of itself in VERSION. A default one is what a side that says nothing is.
struct Capabilities {
  std::uint64_t max_msg_fds = spec::default_max_msg_fds;  ///< descriptors it can receive in one message
  std::uint64_t max_data_xfer_size = spec::default_max_data_xfer_size;
  std::uint64_t max_dma_maps = spec::default_max_dma_maps;
  std::uint64_t pgsizes = spec::default_pgsizes;  ///< bit mask of page sizes for DMA_MAP
  bool write_multiple = false;
  bool twin_socket = false;                         ///< "supported" of twin_socket
  std::optional<std::uint64_t> twin_socket_fd_index;
};

/// The payload of a VERSION message, request or reply.
struct VersionMessage {
  spec::Version version{spec::version_major, spec::version_minor};
  Capabilities capabilities;
};

/// JSON text of more bytes is refused unread.
constexpr std::size_t longest_version_json = 65536;

/// Takes a peer's VERSION payload apart, with bounded work. EINVAL: shorter than 4 bytes; JSON that does not end in a
/// NUL, is malformed, deeper than 8, not UTF-8, or names a key twice; a capability of a wrong type, negative, or above
/// 2^53. Unknown keys are ignored. Whether the values can be lived with is the caller's business.
Result<VersionMessage> parse_version(Bytes payload);

/// The payload that says it. Descriptors and transfer size are always said, the rest where it is not the default.
std::vector<std::byte> build_version(const VersionMessage& message);

}  // namespace outboard::vfio_user
