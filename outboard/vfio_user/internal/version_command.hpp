#pragma once

#include <cstddef>

#include <outboard/base/internal/budget.hpp>
#include <outboard/vfio_user/internal/channel.hpp>
#include <outboard/vfio_user/internal/negotiation.hpp>

namespace outboard::vfio_user {

/// VERSION on the server's side: takes the client's proposal apart. EINVAL: another command, with descriptors, without a reply,
/// malformed, or of another major version.
Result<VersionMessage> parse_proposal(const Message& message);

/// What a server offers a client.
struct Offer {
  unsigned max_fds = 0;  ///< of one message from the client
  std::size_t max_data_transfer = 0;  ///< bytes of one region access
  const Budget::Share* share = nullptr;  ///< of the process's mappings; null: no limit
};

/// The server's part of the negotiation: what it replies to `proposal`.
VersionMessage accept(const VersionMessage& proposal, const Offer& offer);

}  // namespace outboard::vfio_user
