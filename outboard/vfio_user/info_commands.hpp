#pragma once

#include <vector>

#include <outboard/pci/function.hpp>
#include <outboard/vfio_user/protocol.hpp>

/// The server's commands that only ask: each turns a request's payload into a reply's. Errors are for an error reply.
namespace outboard::vfio_user {

/// What a command is answered with.
struct Answer {
  std::vector<std::byte> payload;
  std::vector<int> fds;  ///< the function's
};

Result<Answer> get_device_info(const pci::Function& function, Bytes request);
/// `max_fds`: what the client takes in one message; with 0 nothing is offered for mapping.
Result<Answer> get_region_info(const pci::Function& function, Bytes request, unsigned max_fds);
Result<Answer> get_irq_info(const pci::Function& function, Bytes request);
/// Doorbells whose descriptors do not fit one message are left out; an access rings them too.
Result<Answer> get_region_io_fds(pci::Function& function, Bytes request, unsigned max_fds);

}  // namespace outboard::vfio_user
