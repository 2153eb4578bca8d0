// A device of its own, served on a socket. Try it: example_increment_device /tmp/increment.sock &
//                                                 outboard show vfio-user:/tmp/increment.sock

#include <fmt/format.h>

#include <outboard/vfio_user/server.hpp>
#include <outboard/virtio/device.hpp>
#include <outboard/virtio_pci/function.hpp>

using namespace outboard;

/// Answers each request with its number plus one.
class Increment final : public virtio::Device {
 public:
  virtio::Identity identity() const override { return {.device_id = 63, .queue_sizes = {64}}; }

  void handle(virtio::Request request) override {
    const auto number = request.read<le32>();               // copied out of shared memory, or what is wrong with it
    if (!number) return request.violation(number.error());  // NEEDS_RESET until the driver resets
    if (const auto room = request.write(le32{*number + 1}); !room) return request.violation(room.error());
    request.complete();  // used length: the 4 bytes that were written
  }
};

int main(int argc, char** argv) {
  auto server =
      vfio_user::Server::listen(argc > 1 ? argv[1] : "/run/increment.sock", virtio_pci::Function::of<Increment>());
  if (server) return server->run();
  fmt::print(stderr, "{}\n", server.error().message());
  return 1;
}
