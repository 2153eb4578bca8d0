#include <outboard/devices/edu/registration.hpp>

#include <array>
#include <limits>

#include <outboard/devices/edu/device.hpp>

namespace outboard::edu {

namespace {

constexpr std::uint64_t max_time_us = 60'000'000;

constexpr std::array option_table = {
    OptionHelp{"dma-mask", "N", "addresses that its DMA engine reaches (default 0xfffffff: 28 bits)"},
    OptionHelp{"dma-time", "USEC", "duration of a transfer (default 0; QEMU: 100000)"},
    OptionHelp{"factorial-time", "USEC", "duration of a factorial (default 0)"},
};

Result<Duration> time_of(OptionSet& set, std::string_view name) {
  OUTBOARD_TRY(const auto microseconds, set.number(name, 0, 0, max_time_us));
  return std::chrono::microseconds(microseconds);
}

Result<pci::FunctionType::Made> make(OptionSet& set, Loop& loop, const Log& log) {
  Device::Options options;
  OUTBOARD_TRY(options.dma_mask,
               set.number("dma-mask", spec::default_dma_mask, 0xFFF, std::numeric_limits<std::uint64_t>::max()));
  OUTBOARD_TRY(options.dma_time, time_of(set, "dma-time"));
  OUTBOARD_TRY(options.factorial_time, time_of(set, "factorial-time"));
  OUTBOARD_CHECK(set.finish(option_table));
  OUTBOARD_TRY(std::unique_ptr<pci::Function> function, Device::create(loop, log, options));
  return pci::FunctionType::Made{.function = std::move(function)};
}

}  // namespace

constinit const pci::FunctionType registration{
    .name = "edu",
    .summary = "QEMU's educational PCI device: the smallest one that is not virtio",
    .options = option_table,
    .make = make};

}  // namespace outboard::edu
