#pragma once

#include <outboard/pci/function.hpp>
#include <outboard/vfio_user/protocol.hpp>

/// The server's commands that access regions. Here the messages are checked; pci::Function checks the accesses.
namespace outboard::vfio_user {

/// REGION_READ. EINVAL: too short, or longer than a reply may be.
Result<spec::RegionAccess> parse_region_read(Bytes request, std::uint64_t max_transfer);

/// REGION_WRITE; the reply is the result. EINVAL: too short, or with other data than it says, and what the function says.
Result<spec::RegionAccess> region_write(pci::Function& function, Bytes request, std::uint64_t max_transfer);

/// Writes of one REGION_WRITE_MULTI at most: they are all done before another client has its turn. QEMU sends 200.
constexpr std::uint64_t max_multi_writes = 256;

/// REGION_WRITE_MULTI: its writes are done in order up to the first bad one, whose error is returned. EINVAL, with nothing
/// written: the message is not as long as its writes, or there are more than max_multi_writes.
Result<spec::WriteMulti> region_write_multi(pci::Function& function, Bytes request);

}  // namespace outboard::vfio_user
