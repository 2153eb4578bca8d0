#include <tools/outboard/config_image.hpp>

#include <algorithm>

#include <outboard/pci/registers.hpp>

namespace outboard::command {

namespace {

/// A handle of kernel VFIO is called "vfio:0000:00:04.0", with words behind a comma.
pci::Address address_of(const pci::Handle& handle) {
  static constexpr std::string_view scheme = "vfio:";
  const std::string name = handle.name();
  if (!name.starts_with(scheme)) return {};
  const std::string_view rest = std::string_view(name).substr(scheme.size());
  return pci::Address::parse(rest.substr(0, rest.find(','))).value_or(pci::Address{});
}

}  // namespace

Result<ConfigImage> ConfigImage::of(pci::Handle& handle) {
  OUTBOARD_TRY(const auto region, handle.region(pci::region::config));
  std::vector<std::byte> bytes(
      std::clamp<std::uint64_t>(region.size, pci::config_size::header, pci::config_size::express));
  // Dword by dword: what a register shows in a wider read is a device's own business.
  for (std::size_t offset = 0; offset + 4 <= bytes.size(); offset += 4)
    OUTBOARD_CHECK(handle.read_region(pci::region::config, offset, MutableBytes(bytes).subspan(offset, 4)));
  ConfigImage image(std::move(bytes));
  image.set_address(address_of(handle));
  for (unsigned index = 0; index <= pci::region::rom; ++index) {
    OUTBOARD_TRY(const auto info, handle.region(index));
    image.region_sizes_[index] = info.size;
  }
  return image;
}

ConfigImage::Walk ConfigImage::capabilities() const {
  Walk walk;
  if (at<pci::StatusRegister>().get(pci::StatusRegister::capabilities_list) == 0) return walk;
  std::array<bool, pci::config_size::conventional> seen{};
  std::size_t offset = pci::capability_at(at<pci::CapabilitiesPointer>().value());
  while (offset != 0) {
    const auto id = number<std::uint8_t>(offset);
    walk.looped = seen[offset];
    walk.broken = offset < pci::config_size::header || id == 0xFF;
    walk.found.push_back({id, static_cast<pci::ConfigOffset>(offset), 0, false});
    if (walk.looped || walk.broken) break;
    seen[offset] = true;
    offset = pci::capability_at(number<std::uint8_t>(offset + 1));
  }
  return walk;
}

ConfigImage::Walk ConfigImage::extended_capabilities() const {
  Walk walk;
  std::array<bool, pci::config_size::express> seen{};
  std::size_t offset = pci::config_size::conventional;
  while (offset != 0 && offset < size()) {
    const pci::ExtendedCapabilityHeader header(number<std::uint32_t>(offset));
    if (header.value() == 0) break;
    walk.looped = seen[offset];
    walk.broken = offset < pci::config_size::conventional || header.value() == 0xFFFFFFFF;
    walk.found.push_back({static_cast<std::uint16_t>(header.get(pci::ExtendedCapabilityHeader::id)),
                          static_cast<pci::ConfigOffset>(offset),
                          static_cast<std::uint8_t>(header.get(pci::ExtendedCapabilityHeader::version)), true});
    if (walk.looped || walk.broken) break;
    seen[offset] = true;
    offset = pci::capability_at(header.get(pci::ExtendedCapabilityHeader::next));
  }
  return walk;
}

}  // namespace outboard::command
