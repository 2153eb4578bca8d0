#pragma once

#include <cstddef>
#include <cstdint>

#include <outboard/base/result.hpp>
#include <outboard/vfio_user/protocol.hpp>

/// The headers that server and client write, and what one of them reads in an error reply.
namespace outboard::vfio_user {

inline bool is_reply(const spec::Header& header) { return (header.flags & spec::flag::type_mask) == spec::flag::reply; }
inline bool wants_reply(const spec::Header& header) { return (header.flags & spec::flag::no_reply) == 0; }

/// `flags`: spec::flag::command, or spec::flag::no_reply for a posted one. `payload`: its size in bytes.
inline spec::Header command_header(spec::Command command, std::uint16_t id, std::uint32_t flags, std::size_t payload) {
  return {.msg_id = id,
          .command = static_cast<std::uint16_t>(command),
          .msg_size = static_cast<std::uint32_t>(sizeof(spec::Header) + payload),
          .flags = flags,
          .error = 0};
}

inline spec::Header reply_header(const spec::Header& request, std::size_t payload) {
  return {.msg_id = request.msg_id,
          .command = request.command,
          .msg_size = static_cast<std::uint32_t>(sizeof(spec::Header) + payload),
          .flags = spec::flag::reply,
          .error = 0};
}

/// `code`: a positive errno value. An error reply has no payload.
inline spec::Header error_header(const spec::Header& request, int code) {
  spec::Header header = reply_header(request, 0);
  header.flags |= spec::flag::error;
  header.error = static_cast<std::uint32_t>(code);
  return header;
}

inline bool is_error(const spec::Header& reply) { return (reply.flags & spec::flag::error) != 0; }

/// The errno value of an error reply. EIO where the peer sent no errno value: an error never reads as success.
inline int error_code(const spec::Header& reply) {
  constexpr std::uint32_t max_errno = 4095;
  return reply.error != 0 && reply.error <= max_errno ? static_cast<int>(reply.error) : EIO;
}

}  // namespace outboard::vfio_user
