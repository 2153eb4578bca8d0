#include <fmt/format.h>

#include <outboard/devices/blk/layout.hpp>
#include <outboard/vduse/server.hpp>
#include <outboard/virtio/device.hpp>

/// refusing_vduse NAME: a block device on the vDPA bus that refuses every set of features. What comes of it, and what
/// Server says, is what the test is about; it ends with status 1.
namespace {

using namespace outboard;

class Refusing final : public virtio::Device {
 public:
  virtio::Identity identity() const override {
    return {.device_id = blk::device_id, .queue_sizes = {128}, .config_size = blk::spec::config_size};
  }
  bool accept_features(const virtio::Features& /*accepted*/) override { return false; }
  void handle(virtio::Request request) override { request.complete(); }
};

Status serve(const std::string& name) {
  const Log log([](Level, std::string_view line) { fmt::print(stderr, "{}\n", line); });
  const auto factory = [](Loop&, const Log&) -> Result<std::unique_ptr<virtio::Device>> {
    return std::make_unique<Refusing>();
  };
  OUTBOARD_TRY(auto server, vduse::Server::create(factory, {.name = name, .log = log}));
  return server.run([] {
    fmt::print("serving\n");
    return Status();
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto done = serve(argv[1]);
  if (done) return 0;
  fmt::print(stderr, "{}\n{}\n", done.error().message(), done.error().cure());
  return 1;
}
