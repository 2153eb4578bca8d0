// The payload of a VERSION message, from either side.

#include <cstdlib>

#include <outboard/vfio_user/internal/negotiation.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace outboard;
  const auto parsed = vfio_user::parse_version(Bytes(reinterpret_cast<const std::byte*>(data), size));
  if (!parsed) return 0;
  // What was understood can be said, and means the same.
  auto sayable = *parsed;
  sayable.capabilities.twin_socket = false;
  sayable.capabilities.twin_socket_fd_index.reset();
  const auto again = vfio_user::parse_version(vfio_user::build_version(sayable));
  if (!again || again->capabilities.max_msg_fds != sayable.capabilities.max_msg_fds ||
      again->capabilities.max_data_xfer_size != sayable.capabilities.max_data_xfer_size ||
      again->capabilities.max_dma_maps != sayable.capabilities.max_dma_maps ||
      again->capabilities.pgsizes != sayable.capabilities.pgsizes ||
      again->capabilities.write_multiple != sayable.capabilities.write_multiple) {
    std::abort();
  }
  return 0;
}
