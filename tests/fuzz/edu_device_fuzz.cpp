// The registers of the edu device, driven by whoever may write to its BAR: any bytes at any offset, with time that passes,
// interrupts and resets in between. Its memory is what the test gave it and no more, every transfer ends, and it still knows
// who it is.
//
// The input is a sequence of steps: 1 byte says which (see Step), 4 bytes of offset and the bytes to write where it is an
// access. An offset is folded into the registers, mostly: a megabyte of nothing is no place to look for faults.

#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/endian.hpp>
#include <outboard/devices/edu/device.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/testing/manual_loop.hpp>

namespace {

using namespace outboard;

constexpr memory::Iova memory_at{0x10000};
constexpr std::byte guard{0xA5};

void require(bool condition) {
  if (!condition) std::abort();
}

/// Memory of the driver's, with bytes on either side that are none of the device's business.
struct Memory {
  static constexpr std::size_t size = 4096, margin = 4096;
  alignas(4096) std::array<std::byte, size + 2 * margin> bytes;

  Memory() { bytes.fill(guard); }
  MutableBytes inside() { return MutableBytes(bytes).subspan(margin, size); }
  bool intact() const {
    const auto untouched = [](std::byte each) { return each == guard; };
    return std::ranges::all_of(std::span(bytes).first(margin), untouched) &&
           std::ranges::all_of(std::span(bytes).last(margin), untouched);
  }
};

enum class Step : std::uint8_t { read, write, write_register, advance, msi, bus_master, reset, count };

class Run {
 public:
  Run() {
    auto made = edu::Device::create(loop_, Log(), {.dma_time = std::chrono::milliseconds(1)});
    require(made.has_value());
    device_ = made->get();
    auto handle = pci::LocalHandle::over(std::move(*made), [this] { loop_.run_until_idle(); }, "fuzz");
    require(handle.has_value());
    handle_ = std::move(*handle);
    require(handle_->enable_memory().has_value() && handle_->enable_bus_master().has_value());
    require(device_
                ->map({.range = {memory_at, Memory::size},
                       .access = memory::Access::read_write,
                       .memory = memory::HostMemory::borrowed(memory_.inside()),
                       .offset = 0,
                       .port = nullptr})
                .has_value());
  }

  void go(ByteReader input) {
    while (input.remaining() != 0) {
      const auto word = *input.read<std::uint8_t>();
      step(static_cast<Step>(word % static_cast<unsigned>(Step::count)), word, input);
    }
    // Whatever was started ends, and what it did it did to its own memory.
    loop_.advance(std::chrono::seconds(1));
    require(memory_.intact());
    require(handle_->enable_memory().has_value());
    const auto bar = handle_->bar(0);
    require(bar->read<std::uint32_t>(edu::Identification::offset).value() == edu::Identification::version_1_0);
    require((bar->read<std::uint32_t>(edu::DmaCommand::offset).value() & 1) == 0);
    require((bar->read<std::uint32_t>(edu::ComputationStatus::offset).value() & ~0x80U) == 0);
  }

 private:
  void step(Step what, std::uint8_t word, ByteReader& input) {
    switch (what) {
      case Step::read:
      case Step::write:
        return access(what == Step::write, word / 8, input);
      case Step::write_register:
        return write_register(input);
      case Step::advance:
        loop_.advance(std::chrono::microseconds(word));
        return;
      case Step::msi:
        return toggle_msi();
      case Step::bus_master:
        require((word & 0x80) != 0 ? handle_->enable_bus_master().has_value()
                                   : handle_->disable_bus_master().has_value());
        return;
      case Step::reset:
        vectors_ = {};
        require(handle_->reset().has_value());
        return;
      case Step::count:
        return;
    }
  }

  void access(bool write, std::size_t length, ByteReader& input) {
    if (input.remaining() < 4) return;
    const std::uint32_t where = *input.read<le32>();
    const std::uint64_t offset = (where >> 24) == 0xFF ? where % edu::spec::bar_size : where % 0xB0;
    if (!range_within(offset, length, edu::spec::bar_size)) return;
    if (!write) {
      std::vector<std::byte> into(length);
      require(handle_->read_region(0, offset, into).has_value());
      return;
    }
    const auto bytes = input.take(std::min(length, input.remaining()));
    require(handle_->write_region(0, offset, *bytes).has_value());
  }

  /// A register, in its width, with addresses that are more often right than chance would have them.
  void write_register(ByteReader& input) {
    static constexpr std::array<std::uint64_t, 9> offsets{edu::Liveness::offset,
                                                          edu::Factorial::offset,
                                                          edu::ComputationStatus::offset,
                                                          edu::InterruptRaise::offset,
                                                          edu::InterruptAcknowledge::offset,
                                                          edu::DmaSource::offset,
                                                          edu::DmaDestination::offset,
                                                          edu::DmaCount::offset,
                                                          edu::DmaCommand::offset};
    if (input.remaining() < 9) return;
    const auto choice = *input.read<std::uint8_t>();
    const std::uint64_t raw = *input.read<le64>();
    static constexpr std::array<std::uint64_t, 3> bases{0, edu::spec::buffer_address, memory::raw(memory_at)};
    const std::uint64_t value = (choice & 0x80) != 0 ? raw : bases[choice / 16 % bases.size()] + raw % 5000;
    const std::uint64_t offset = offsets[choice % 16 % offsets.size()];
    const le64 stored(value);
    require(
        handle_->write_region(0, offset, as_bytes_of(stored).first(offset < edu::spec::wide_from ? 4 : 8)).has_value());
  }

  void toggle_msi() {
    if (vectors_.count() != 0) {
      vectors_ = {};
      return;
    }
    auto enabled = handle_->enable_interrupts(pci::InterruptKind::msi, 1);
    require(enabled.has_value());
    vectors_ = std::move(*enabled);
  }

  Memory memory_;
  testing::ManualLoop loop_;
  edu::Device* device_ = nullptr;
  std::unique_ptr<pci::LocalHandle> handle_;
  pci::InterruptSet vectors_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto run = std::make_unique<Run>();
  run->go(ByteReader(std::as_bytes(std::span(data, size))));
  return 0;
}
