#include <outboard/devices/blk/driver_limits.hpp>

#include <algorithm>
#include <bit>

namespace outboard::blk {

namespace {

constexpr std::uint64_t max_sectors = UINT64_MAX / sector_size;
constexpr std::uint32_t max_block = UINT32_C(1) << 20;

std::uint32_t block_size(std::uint64_t size, std::uint32_t otherwise) {
  const bool sane = std::has_single_bit(size) && size >= sector_size && size <= max_block;
  return sane ? static_cast<std::uint32_t>(size) : otherwise;
}

}  // namespace

Limits sanitise(const spec::Config& config, const virtio::Features& accepted) {
  Limits limits;
  limits.capacity = std::min<std::uint64_t>(config.capacity, max_sectors);
  if (accepted.has(feature::blk_size)) limits.block_size = block_size(config.blk_size, 512);
  limits.physical_block_size = limits.block_size;
  if (accepted.has(feature::topology)) {
    const unsigned exponent = config.physical_block_exp;
    if (exponent < 16)
      limits.physical_block_size = block_size(std::uint64_t{limits.block_size} << exponent, limits.block_size);
    const std::uint64_t optimal = std::uint64_t{config.opt_io_size} * limits.block_size;
    if (optimal <= UINT32_MAX) limits.optimal_io_size = static_cast<std::uint32_t>(optimal);
  }
  if (accepted.has(feature::seg_max)) limits.seg_max = std::max<std::uint32_t>(config.seg_max, 1);
  if (accepted.has(feature::size_max) && config.size_max >= sector_size) limits.size_max = config.size_max;
  if (accepted.has(feature::mq)) limits.queues = std::max<std::uint16_t>(config.num_queues, 1);
  limits.read_only = accepted.has(feature::ro);
  if (accepted.has(feature::discard) && config.max_discard_seg != 0)
    limits.max_discard_sectors = config.max_discard_sectors;
  if (accepted.has(feature::write_zeroes) && config.max_write_zeroes_seg != 0) {
    limits.max_write_zeroes_sectors = config.max_write_zeroes_sectors;
    limits.write_zeroes_may_unmap = config.write_zeroes_may_unmap != 0;
  }
  limits.flush = accepted.has(feature::flush);
  return limits;
}

}  // namespace outboard::blk
