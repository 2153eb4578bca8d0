#include <outboard/devices/edu/registration.hpp>

#include <array>
#include <limits>

#include <outboard/devices/edu/device.hpp>

namespace outboard::edu {

namespace {

constexpr std::uint64_t longest_time_us = 60'000'000;

constexpr std::array words = {
    OptionHelp{"dma-mask", "N", "addresses that its DMA engine reaches (0xfffffff: 28 bits)"},
    OptionHelp{"dma-time", "USEC", "how long a transfer lasts (0; QEMU's: 100000)"},
    OptionHelp{"factorial-time", "USEC", "how long a factorial lasts (0)"},
};

Result<Duration> time_of(OptionSet& set, std::string_view word) {
  OUTBOARD_TRY(const auto microseconds, set.number(word, 0, 0, longest_time_us));
  return std::chrono::microseconds(microseconds);
}

Result<pci::FunctionType::Made> make(OptionSet& set, Loop& loop, const Log& log) {
  Device::Options options;
  OUTBOARD_TRY(options.dma_mask,
               set.number("dma-mask", spec::default_dma_mask, 0xFFF, std::numeric_limits<std::uint64_t>::max()));
  OUTBOARD_TRY(options.dma_time, time_of(set, "dma-time"));
  OUTBOARD_TRY(options.factorial_time, time_of(set, "factorial-time"));
  OUTBOARD_CHECK(set.finish(words));
  OUTBOARD_TRY(std::unique_ptr<pci::Function> function, Device::create(loop, log, options));
  return pci::FunctionType::Made{.function = std::move(function)};
}

}  // namespace

constinit const pci::FunctionType registration{
    .name = "edu",
    .summary = "QEMU's educational PCI device: the smallest one that is not virtio",
    .options = words,
    .make = make};

}  // namespace outboard::edu
