#pragma once

#include <outboard/pci/function.hpp>
#include <outboard/vfio_user/internal/replies.hpp>

/// The commands that query the function: each makes the reply to a request's payload. Errors go into an error reply.
namespace outboard::vfio_user {

Result<Answer> get_device_info(const pci::Function& function, Bytes request);
/// `max_fds`: descriptors that the client takes in one message; with 0 no region is mappable.
Result<Answer> get_region_info(const pci::Function& function, Bytes request, unsigned max_fds);
Result<Answer> get_irq_info(const pci::Function& function, Bytes request);
/// Doorbells whose descriptors do not fit into one message are left out; a register access rings them as well.
Result<Answer> get_region_io_fds(pci::Function& function, Bytes request, unsigned max_fds);

}  // namespace outboard::vfio_user
