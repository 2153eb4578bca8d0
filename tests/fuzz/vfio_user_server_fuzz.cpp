// A client's byte stream, with descriptors, against a server over a function that has everything.
//
// The input is a list of pieces: a byte of options, two bytes of length, the bytes. Options: 1 attaches an eventfd, 2 a
// memory file, 4 the same eventfd sixteen times more, 8 lets the server run before the next piece, 16 reads what the server
// has sent, 32 lets a deadline pass, 64 puts a header in front that makes a whole message of the piece, 128 begins the
// stream anew. A VERSION that the server takes goes in front of each stream.
//
// The two highest bits of the length are no length. 0: the memory file is sealed. 1: it may shrink, and does so by half after
// the piece. 2: it may shrink; and a DMA_MAP comes a hundred times, each time for the addresses behind the last ones. 3: the
// piece is there twice in one send, which the descriptors go with. The fault guard is on.

#include <sys/eventfd.h>

#include <cstdlib>
#include <cstring>

#include <outboard/memory/fault_guard.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/vfio_user/internal/session.hpp>
#include <tests/support/plain_function.hpp>
#include <tests/support/temp_dir.hpp>
#include <tests/support/vfio_user_peer.hpp>

namespace {

using namespace outboard;
using testing::PlainFunction;
using testing::VfioUserPeer;

enum class Memory : std::uint8_t { sealed, shrinking, many_windows, sent_twice };
constexpr off_t memory_size = 0x10000;

class Harness {
 public:
  Harness() : function_(PlainFunction::create(loop_, Log(), {.doorbell_fd = true}).value()) { connect(); }
  ~Harness() {
    peer_.close();
    settle();
    if (session_ != nullptr) std::abort();  // the function did not let go of a client that left
  }

  void piece(std::uint8_t options, Memory memory, Bytes bytes) {
    if ((options & 128) != 0) connect();
    // A new one each time: bound as INTx and as its unmask, one eventfd would signal itself for ever.
    eventfd_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    std::vector<int> fds;
    if ((options & 1) != 0) fds.push_back(eventfd_.get());
    const bool unsealed = memory == Memory::shrinking || memory == Memory::many_windows;
    if ((options & 2) != 0) fds.push_back(unsealed ? unsealed_.get() : memory_.get());
    if ((options & 4) != 0) fds.resize(fds.size() + 16, eventfd_.get());
    if (peer_.socket()) send(bytes, fds, (options & 64) != 0, memory);
    if (memory == Memory::shrinking && ::ftruncate(unsealed_.get(), memory_size / 2) != 0) std::abort();
    if ((options & 8) != 0) loop_.run_until_idle();
    if ((options & 16) != 0) {
      while (peer_.receive()) {
      }
    }
    if ((options & 32) != 0) loop_.advance(std::chrono::seconds(3));
  }

 private:
  static constexpr auto map_command = static_cast<std::uint16_t>(vfio_user::spec::Command::dma_map);

  void send(Bytes bytes, const std::vector<int>& fds, bool framed, Memory memory) {
    if (!framed || bytes.size() < 4) {
      if (!bytes.empty()) peer_.send_bytes(bytes, fds);
      return;
    }
    std::uint16_t command = 0;
    std::memcpy(&command, bytes.data(), sizeof command);
    command %= 20;
    const VfioUserPeer::Shape shape{.flags = std::to_integer<std::uint32_t>(bytes[2]) & 0x11, .error = 0, .fds = fds};
    std::vector<std::byte> payload(bytes.begin() + 4, bytes.end());
    if (memory == Memory::sent_twice) {
      const auto one = peer_.message(command, payload, shape);
      auto both = one;
      both.insert(both.end(), one.begin(), one.end());
      peer_.send_bytes(both, fds);
    } else {
      peer_.send(command, payload, shape);
    }
    if (memory == Memory::many_windows && command == map_command) send_more_windows(payload, shape);
  }
  void send_more_windows(std::vector<std::byte>& payload, const VfioUserPeer::Shape& shape) {
    vfio_user::spec::DmaMap map{};
    if (payload.size() < sizeof map) return;
    for (int i = 0; i < 100; ++i) {
      std::memcpy(&map, payload.data(), sizeof map);
      map.address += map.size;
      std::memcpy(payload.data(), &map, sizeof map);
      peer_.send(map_command, payload, shape);
      loop_.run_until_idle();
      peer_.receive();
    }
  }
  void settle() {
    for (int i = 0; i < 3 && session_ != nullptr; ++i) loop_.advance(std::chrono::seconds(40));
  }
  void connect() {
    peer_.close();
    settle();
    if (session_ != nullptr) std::abort();
    auto [peer, socket] = VfioUserPeer::pair();
    peer_ = std::move(peer);
    session_ = std::make_shared<vfio_user::Session>(std::move(socket), loop_, *function_, Log(),
                                                    vfio_user::Session::Limits{.max_data_transfer = 65536});
    if (!session_->start([this] { session_.reset(); })) std::abort();
    peer_.send_version(R"({"capabilities":{"max_msg_fds":4,"write_multiple":true}})");
  }

  testing::ManualLoop loop_;
  std::unique_ptr<PlainFunction> function_;
  std::shared_ptr<vfio_user::Session> session_;
  VfioUserPeer peer_;
  UniqueFd eventfd_;
  UniqueFd memory_ = testing::make_sealed_memfd(memory_size);
  UniqueFd unsealed_ = testing::make_memfd(memory_size);
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (!memory::install_fault_guard()) std::abort();
  Harness harness;
  ByteReader reader(Bytes(reinterpret_cast<const std::byte*>(data), size));
  for (int pieces = 0; pieces < 200; ++pieces) {
    const auto options = reader.read<std::uint8_t>();
    const auto length = reader.read<std::uint16_t>();
    if (!options || !length) break;
    const std::size_t size_of_piece = std::min<std::size_t>(*length & 0x3fff, reader.remaining());
    harness.piece(*options, static_cast<Memory>(*length >> 14), reader.take(size_of_piece).value());
  }
  return 0;
}
