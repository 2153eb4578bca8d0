#include <outboard/vfio_user/internal/version_command.hpp>

#include <algorithm>
#include <string>

namespace outboard::vfio_user {

Result<VersionMessage> parse_proposal(const Message& message) {
  if (message.header.command != static_cast<std::uint16_t>(spec::Command::version)) {
    return Error(EINVAL, "the client did not begin with VERSION");
  }
  if (!message.fds.empty() || message.fds_lost) return Error(EINVAL, "VERSION with file descriptors");
  if (!message.wants_reply()) return Error(EINVAL, "VERSION that wants no reply");
  OUTBOARD_TRY(auto proposal, parse_version(message.payload));
  if (proposal.version.major != spec::version_major) {
    return Error(EINVAL, "the client speaks version " + std::to_string(proposal.version.major) + " of vfio-user, not " +
                             std::to_string(spec::version_major));
  }
  return proposal;
}

VersionMessage accept(const VersionMessage& proposal, const Offer& offer) {
  VersionMessage ours;
  ours.version.minor = std::min(proposal.version.minor, spec::version_minor);
  ours.capabilities.max_msg_fds = offer.max_fds;
  ours.capabilities.max_data_xfer_size = offer.max_data_transfer;
  ours.capabilities.write_multiple = proposal.capabilities.write_multiple;
  // What can be had whatever files the windows are on. More are taken as long as there is room.
  if (offer.share != nullptr) {
    ours.capabilities.max_dma_maps = std::min(spec::default_max_dma_maps, offer.share->guaranteed_mappings());
  }
  return ours;
}

}  // namespace outboard::vfio_user
