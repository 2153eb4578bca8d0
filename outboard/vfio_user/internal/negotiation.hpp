#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/vfio_user/protocol.hpp>

namespace outboard::vfio_user {

/// The capabilities of one side, as VERSION states them. The defaults hold for a side that does not name them.
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
constexpr std::size_t max_version_json = 65536;

/// Parses a peer's VERSION payload, with bounded work. EINVAL: shorter than 4 bytes; JSON that does not end in a NUL, is
/// malformed, nested deeper than 8, not UTF-8, or has a key twice; a capability of a wrong type, negative, or above 2^53.
/// Unknown keys are ignored. The caller checks whether the values are acceptable.
Result<VersionMessage> parse_version(Bytes payload);

/// The payload of a VERSION message. It always names max_msg_fds and max_data_xfer_size, the rest where they are not the
/// default.
std::vector<std::byte> build_version(const VersionMessage& message);

}  // namespace outboard::vfio_user
