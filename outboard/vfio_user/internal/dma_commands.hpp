#pragma once

#include <memory>
#include <vector>

#include <outboard/memory/address_map.hpp>
#include <outboard/memory/internal/shared_files.hpp>
#include <outboard/vfio_user/protocol.hpp>

namespace outboard::vfio_user {

/// Makes the mapping that a DMA_MAP asks for: of the client's file, from `files`, if a descriptor came; else by `messages`.
/// Takes the descriptors over. EINVAL: malformed, more than one descriptor, not a file, or a file that is too short; EACCES:
/// the file does not allow the access; ENOTSUP: the file might shrink, and no fault guard is installed; ENOSPC: too many files.
Result<memory::Mapping> mapping_for(Bytes request, std::vector<UniqueFd> fds, memory::SharedFiles& files,
                                    std::shared_ptr<memory::MemoryPort> messages);

/// What a DMA_UNMAP removes.
struct UnmapRequest {
  spec::DmaUnmap echo;  ///< the reply is the request
  bool all = false;
  memory::IovaRange range;  ///< unless all
};

/// EINVAL: malformed; ENOTSUP: the dirty bitmap is asked for.
Result<UnmapRequest> parse_unmap(Bytes request);

}  // namespace outboard::vfio_user
