// The registers of a virtio function against whatever a driver, or a client, may do with them: any access to configuration
// space and the BARs, in any state; memory that comes and goes; doorbells, resets, time. Whatever was done, a reset brings
// the device back, and it negotiates and answers as on the first day.
//
// Input: a byte of options (1 packed offered, 2 in order, 4 notification data), then steps of 8 bytes: what (see Game::step),
// width, two bytes of offset, four of value.

#include <array>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include <outboard/memory/host_memory.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/virtio_pci/function.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tests/support/increment.hpp>

namespace {

using namespace outboard;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "virtio_pci_registers_fuzz: %s\n", what);
  std::abort();
}

struct Step {
  std::uint8_t what;
  std::uint8_t width;
  le16 offset;
  le32 value;
};

class Game {
 public:
  explicit Game(unsigned options) {
    auto made = virtio_pci::Function::create(
        std::make_unique<testing::Increment>(3, 8), loop_, Log(),
        {.core = {
             .packed = (options & 1) != 0, .in_order = (options & 2) != 0, .notification_data = (options & 4) != 0}});
    require(made.has_value(), "create");
    handle_ = pci::LocalHandle::over(std::move(*made), [this] { loop_.run_until_idle(); }, "fuzz").value();
    require(handle_->enable_bus_master().has_value(), "bus master");
    ring_ = handle_->dma().allocate(0x4000).value();
  }

  void step(const Step& step) {
    switch (step.what % 8) {
      case 0:
      case 1:
        return write(0, step.offset % 0x4000, step);  // any register
      case 2:
        return write(0, step.offset % 0x40, step);  // common configuration
      case 3:
        return write(pci::region::config, step.offset % 0x100, step);  // the window, Command, MSI-X
      case 4:
        return write(2, step.offset % 0x1000, step);  // MSI-X table
      case 5:
        return read(step);
      case 6:
        return set_up(step);
      case 7:
        loop_.run_until_idle();
        return;
    }
  }

  /// What a sane driver finds afterwards.
  void finish() {
    require(handle_->reset().has_value(), "a function reset");
    auto transport = virtio_pci::Transport::open(*handle_, {.wait = [this](Duration) { loop_.run_until_idle(); }});
    require(transport.has_value(), "open");
    const auto agreed = virtio::negotiate(**transport, {});
    require(agreed.has_value(), "negotiate");
    auto queue = virtio::DriverQueue::create(**transport, 1, *agreed, {});
    require(queue.has_value(), "a queue");
    require(virtio::start_device(**transport).has_value(), "DRIVER_OK");
    testing::IncrementCaller caller(*queue, handle_->dma());
    require(caller.add(0, 41).has_value(), "add");
    queue->publish();
    loop_.run_until_idle();
    require(queue->next_used().value().has_value() && caller.answer(0) == 42, "the answer");
    require((*transport)->reset().has_value(), "a device reset");
  }

 private:
  void write(unsigned region, std::uint64_t offset, const Step& step) {
    const std::array<le32, 2> bytes{step.value, step.value};
    const std::uint64_t size = handle_->region(region).value().size;
    const std::uint64_t width = std::min<std::uint64_t>(step.width % 9, size - std::min(offset, size));
    require(handle_->write_region(region, offset, as_bytes_of(bytes).first(width)).has_value(), "a write");
  }
  void read(const Step& step) {
    const unsigned regions[] = {0, 2, pci::region::config};
    const unsigned region = regions[step.value % 3];
    const std::uint64_t size = handle_->region(region).value().size, offset = step.offset % size;
    std::array<std::byte, 256> into;
    const std::uint64_t width = std::min<std::uint64_t>(step.width, size - offset);
    require(handle_->read_region(region, offset, MutableBytes(into).first(width)).has_value(), "a read");
  }
  /// Status values and ring addresses that a driver would write, or nearly: fuzzing alone seldom finds them.
  void set_up(const Step& step) {
    using Common = virtio_pci::spec::CommonConfig;
    const std::uint64_t near = memory::raw(ring_.iova()) + (step.offset & 0x3fff);
    switch (step.width % 4) {
      case 0:
        return put(offsetof(Common, device_status), static_cast<std::uint8_t>(step.value));
      case 1:
        put(offsetof(Common, driver_feature_select), step.offset % 5U);
        return put(offsetof(Common, driver_feature), std::uint32_t{step.value});
      case 2:
        for (const auto field :
             {offsetof(Common, queue_desc), offsetof(Common, queue_driver), offsetof(Common, queue_device)})
          put(field, near + (field & 0x18) * 0x100);
        return put(offsetof(Common, queue_enable), std::uint16_t{1});
      case 3:
        // The ring itself: what lies there when the device looks.
        for (std::size_t at = step.offset % 0x4000 & ~3U; at + 4 <= ring_.size() && at < (step.offset % 0x4000) + 16U;
             at += 4)
          std::memcpy(ring_.data() + at, &step.value, 4);
        return;
    }
  }
  template <typename T>
  void put(std::uint64_t offset, T value) {
    const EndianInteger<T, std::endian::little> stored = value;
    require(handle_->write_region(0, offset, as_bytes_of(stored)).has_value(), "a write");
  }

  testing::ManualLoop loop_;
  std::unique_ptr<pci::LocalHandle> handle_;
  memory::DmaBuffer ring_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Game game(size == 0 ? 0 : data[0]);
  for (std::size_t at = 1; at + sizeof(Step) <= size; at += sizeof(Step)) {
    Step step;
    std::memcpy(&step, data + at, sizeof step);
    game.step(step);
  }
  game.finish();
  return 0;
}
