#include <outboard/pci/internal/config_overlay.hpp>

#include <algorithm>
#include <array>

#include <outboard/pci/registers.hpp>

namespace outboard::pci {

namespace {

std::uint32_t load(Bytes bytes) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) value |= std::to_integer<std::uint32_t>(bytes[i]) << (8 * i);
  return value;
}

void store(MutableBytes into, std::uint32_t value) {
  for (std::size_t i = 0; i < into.size(); ++i) into[i] = static_cast<std::byte>(value >> (8 * i));
}

std::uint16_t register_at(unsigned index) { return raw(base_register::offset_of(index)); }

constexpr std::uint32_t ones(unsigned width) { return width == 4 ? UINT32_MAX : (UINT32_C(1) << (8 * width)) - 1; }

}  // namespace

ConfigOverlay::ConfigOverlay(ConfigHardware& hardware, ConfigPolicy policy, Bytes image)
    : hardware_(hardware), map_(policy, image), values_(map_.initial().begin(), map_.initial().end()) {}

Result<std::vector<std::byte>> ConfigOverlay::read_image(ConfigHardware& hardware, std::size_t size) {
  std::vector<std::byte> image(size / 4 * 4);
  for (std::size_t at = 0; at < image.size(); at += 4) {
    OUTBOARD_CHECK(hardware.read_config(static_cast<std::uint16_t>(at), MutableBytes(image).subspan(at, 4)));
  }
  return image;
}

ConfigOverlay::Chunk ConfigOverlay::chunk_at(std::size_t offset, std::size_t length) const {
  const ConfigMap::Byte& first = map_.at(offset);
  std::size_t same = 1;
  const std::size_t max_length = std::min(length, 4 - offset % 4);
  while (same < max_length && map_.at(offset + same).owner == first.owner &&
         (map_.policy() == ConfigPolicy::kernel_mirror || map_.at(offset + same).unit == first.unit)) {
    ++same;
  }
  const unsigned size = same == 4 ? 4 : same >= 2 && offset % 2 == 0 ? 2 : 1;
  return {static_cast<std::uint16_t>(offset), static_cast<std::uint8_t>(size)};
}

ConfigOverlay::Masks ConfigOverlay::masks_of(Chunk chunk) const {
  Masks masks;
  for (unsigned i = 0; i < chunk.size; ++i) {
    const ConfigMap::Byte& byte = map_.at(std::size_t{chunk.at} + i);
    masks.virt |= std::uint32_t{byte.virt} << (8 * i);
    masks.write |= std::uint32_t{byte.write} << (8 * i);
    masks.clears |= std::uint32_t{byte.write_one_clears} << (8 * i);
    masks.forwarded = masks.forwarded || byte.forwarded;
  }
  return masks;
}

Status ConfigOverlay::read(std::uint64_t offset, MutableBytes into) {
  while (!into.empty() && offset < size()) {
    const Chunk chunk = chunk_at(offset, into.size());
    OUTBOARD_CHECK(read_chunk(chunk, into.first(chunk.size)));
    into = into.subspan(chunk.size);
    offset += chunk.size;
  }
  std::ranges::fill(into, std::byte{0});
  return {};
}

Status ConfigOverlay::write(std::uint64_t offset, Bytes from) {
  while (!from.empty() && offset < size()) {
    const Chunk chunk = chunk_at(offset, from.size());
    OUTBOARD_CHECK(write_chunk(chunk, load(from.first(chunk.size))));
    from = from.subspan(chunk.size);
    offset += chunk.size;
  }
  return {};
}

Status ConfigOverlay::read_chunk(Chunk chunk, MutableBytes into) {
  const Masks masks = masks_of(chunk);
  std::uint32_t value = get(chunk.at, chunk.size);
  if (masks.virt != ones(chunk.size)) {
    OUTBOARD_TRY(const std::uint32_t device, hardware_read(chunk.at, chunk.size));
    value = (device & ~masks.virt) | (value & masks.virt);
  }
  store(into, value);
  return {};
}

Status ConfigOverlay::write_chunk(Chunk chunk, std::uint32_t value) {
  const Masks masks = masks_of(chunk);
  if (masks.forwarded && masks.virt == 0 && masks.write == ones(chunk.size)) {
    return hardware_write(chunk.at, chunk.size, value);
  }
  const std::uint32_t ours = masks.write & masks.virt;
  set(chunk.at, chunk.size, (get(chunk.at, chunk.size) & ~ours) | (value & ours));
  // A bit that a one clears is written as it is asked for, never as it was read: it would be cleared unasked.
  const std::uint32_t theirs = (masks.write & ~masks.virt) | masks.clears;
  if ((theirs & ~masks.clears) == 0 && (value & masks.clears) == 0) return {};
  std::uint32_t kept = 0;
  if (theirs != ones(chunk.size)) {
    OUTBOARD_TRY(kept, hardware_read(chunk.at, chunk.size));
  }
  return hardware_write(chunk.at, chunk.size, (kept & ~theirs) | (value & theirs));
}

std::uint32_t ConfigOverlay::get(std::size_t offset, unsigned width) const {
  return range_within(offset, width, values_.size()) ? load(Bytes(values_).subspan(offset, width)) : 0;
}

void ConfigOverlay::set(std::size_t offset, unsigned width, std::uint32_t value) {
  if (range_within(offset, width, values_.size())) store(MutableBytes(values_).subspan(offset, width), value);
}

Result<std::uint32_t> ConfigOverlay::hardware_read(std::size_t offset, unsigned width) {
  std::array<std::byte, 4> bytes{};
  const MutableBytes into = MutableBytes(bytes).first(width);
  OUTBOARD_CHECK(hardware_.read_config(static_cast<std::uint16_t>(offset), into));
  return load(into);
}

Status ConfigOverlay::hardware_write(std::size_t offset, unsigned width, std::uint32_t value) {
  std::array<std::byte, 4> bytes{};
  store(MutableBytes(bytes).first(width), value);
  return hardware_.write_config(static_cast<std::uint16_t>(offset), Bytes(bytes).first(width));
}

std::optional<std::uint16_t> ConfigOverlay::register_of(std::uint8_t capability, std::uint16_t in_capability) const {
  const auto* placed = map_.find({ConfigPart::capability, capability});
  if (placed == nullptr || in_capability >= placed->length) return std::nullopt;
  return static_cast<std::uint16_t>(placed->at + in_capability);
}

std::optional<std::uint16_t> ConfigOverlay::register_beside(Chunk chunk, std::uint16_t in_capability) const {
  const std::uint16_t owner = map_.at(chunk.at).owner;
  if (owner == ConfigMap::gap_owner || in_capability >= map_.structures()[owner].length) return std::nullopt;
  return static_cast<std::uint16_t>(map_.structures()[owner].at + in_capability);
}

// Base addresses.

void ConfigOverlay::set_base_address(unsigned index, std::uint64_t size) {
  Base& base = bases_[index];
  if (base.upper_half) return;
  base.size = size;
  const BaseAddress shown(load(map_.initial().subspan(register_at(index), 4)));
  const bool io = index != base_register::rom && shown.get(BaseAddress::io_space) != 0;
  base.flags = index == base_register::rom
                   ? 0
                   : shown.value() & (io ? mask_of(BaseAddress::io_space) : BaseAddress::memory_flags);
  if (index + 1 < BaseAddress::count && !io && size != 0 && shown.get(BaseAddress::type) == BaseAddress::type_64bit) {
    bases_[index + 1] = {.size = size, .flags = 0, .upper_half = true};
  }
}

void ConfigOverlay::settle_base_addresses() {
  for (unsigned index = 0; index < bases_.size(); ++index) {
    const Base& base = bases_[index];
    const std::uint16_t at = register_at(index);
    const std::uint64_t address_bits = base.size == 0 ? 0 : ~(base.size - 1);
    auto kept = static_cast<std::uint32_t>(base.upper_half ? address_bits >> 32 : address_bits);
    if (index == base_register::rom && base.size != 0)
      kept = (kept & ExpansionRomBase::address_bits) | ExpansionRomBase::enable.mask;
    const std::uint32_t flags = base.size == 0 ? 0 : base.flags;
    set(at, 4, (get(at, 4) & kept & ~flags) | flags);
  }
}

Status ConfigOverlay::restore_hardware(Chunk chunk) {
  const Masks masks = masks_of(chunk);
  const std::uint32_t theirs = masks.write & ~masks.virt;
  if (masks.forwarded || theirs == 0) return {};
  const std::uint32_t wanted = load(map_.initial().subspan(chunk.at, chunk.size));
  OUTBOARD_TRY(const std::uint32_t now, hardware_read(chunk.at, chunk.size));
  if (((now ^ wanted) & theirs) == 0) return {};
  return hardware_write(chunk.at, chunk.size, ((now & ~theirs) | (wanted & theirs)) & ~masks.clears);
}

void ConfigOverlay::restore_initial() { values_.assign(map_.initial().begin(), map_.initial().end()); }

}  // namespace outboard::pci
