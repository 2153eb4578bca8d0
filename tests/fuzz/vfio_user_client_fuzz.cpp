// A server's byte stream, with descriptors, against a client that does a little of everything.
//
// The input is a list of pieces: a byte of options, two bytes of length, the bytes. All of it lies in the socket before the
// client begins, and its end is closed. Options: 1 attaches an eventfd, 2 a memory file, 4 puts a reply header in front,
// whose id is that of the next request. The answers to VERSION and to the first questions go in front unless the first
// byte of the input is odd.

#include <sys/eventfd.h>
#include <sys/socket.h>

#include <outboard/vfio_user/client.hpp>
#include <tests/support/temp_dir.hpp>
#include <tests/support/vfio_user_peer.hpp>

namespace {

using namespace outboard;
using testing::joined;
using testing::VfioUserPeer;
using Command = VfioUserPeer::Command;

class ServerEnd {
 public:
  explicit ServerEnd(VfioUserPeer peer) : peer_(std::move(peer)) {}

  void introduce() {
    reply(1, joined(vfio_user::spec::Version{0, 0}));
    reply(4, joined(vfio_abi::DeviceInfo{.argsz = 16, .flags = 3, .num_regions = 9, .num_irqs = 5}));
    for (std::uint32_t index = 0; index < 9; ++index) {
      const std::uint64_t size = index == 0 ? 0x10000 : index == 7 ? 256 : 0;
      const bool mapped = index == 0;
      reply(5,
            joined(vfio_abi::RegionInfo{
                .argsz = 32, .flags = mapped ? 7u : 3u, .index = index, .cap_offset = 0, .size = size, .offset = 0}),
            mapped ? std::vector<int>{memory_.get()} : std::vector<int>{});
    }
    for (std::uint32_t index = 0; index < 5; ++index) {
      reply(7, joined(vfio_abi::IrqInfo{.argsz = 16, .flags = 1, .index = index, .count = index == 2 ? 4u : 1u}));
    }
  }

  void piece(std::uint8_t options, Bytes bytes) {
    std::vector<int> fds;
    if ((options & 1) != 0) fds.push_back(eventfd_.get());
    if ((options & 2) != 0) fds.push_back(memory_.get());
    if ((options & 4) == 0 || bytes.empty()) {
      if (!bytes.empty()) peer_.send_bytes(bytes, fds);
      return;
    }
    reply(std::to_integer<std::uint16_t>(bytes[0]) % 20, bytes.subspan(1), fds);
  }
  void finish() { ::shutdown(peer_.socket().get(), SHUT_WR); }

 private:
  void reply(std::uint16_t command, Bytes payload, const std::vector<int>& fds = {}) {
    peer_.send(command, payload, {.flags = vfio_user::spec::flag::reply, .id = next_id_++, .fds = fds});
  }

  VfioUserPeer peer_;
  std::uint16_t next_id_ = 1;
  UniqueFd eventfd_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  UniqueFd memory_ = testing::make_sealed_memfd(0x10000);
};

/// Everything a driver does; what comes of it does not matter.
void use(vfio_user::Client& client) {
  std::array<std::byte, 64> bytes{};
  (void)client.read_region(0, 0, bytes);
  (void)client.write_region(7, 4, Bytes(bytes).first(2));
  (void)client.post_write(0, 16, Bytes(bytes).first(4));
  (void)client.capabilities();
  (void)client.io_eventfds(0);
  if (auto window = client.map_window(0, 0x1000, 0x1000)) window->write<std::uint32_t>(0, 1);
  auto buffer = client.dma().allocate(10000);
  auto vectors = client.enable_interrupts(pci::InterruptKind::msix, 3);
  (void)client.process();
  (void)client.reset();
  for (unsigned index = 0; index < pci::region::count; ++index) (void)client.region(index);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ByteReader reader(Bytes(reinterpret_cast<const std::byte*>(data), size));
  const auto first = reader.read<std::uint8_t>();
  auto [peer, socket] = VfioUserPeer::pair();
  ServerEnd server(std::move(peer));
  if (first && *first % 2 == 0) server.introduce();
  for (int pieces = 0; pieces < 100; ++pieces) {
    const auto options = reader.read<std::uint8_t>();
    const auto length = reader.read<std::uint16_t>();
    if (!options || !length) break;
    server.piece(*options, reader.take(std::min<std::size_t>(*length, reader.remaining())).value());
  }
  server.finish();
  const auto client = vfio_user::Client::over(
      std::move(socket), "fuzz",
      {.timeout = std::chrono::milliseconds(50), .reset_timeout = std::chrono::milliseconds(50)});
  if (client) use(**client);
  return 0;
}
