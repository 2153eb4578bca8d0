#include <outboard/pci/internal/config_map.hpp>

#include <algorithm>

#include <outboard/base/endian.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/config_walk.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {

namespace {

std::size_t space_size(std::size_t image) {
  return image > config_size::conventional ? config_size::express : config_size::conventional;
}

std::uint8_t byte_of(std::uint32_t value, unsigned index) { return static_cast<std::uint8_t>(value >> (8 * index)); }

}  // namespace

ConfigMap::ConfigMap(ConfigPolicy policy, Bytes image)
    : policy_(policy), bytes_(space_size(image.size())), initial_(bytes_.size()) {
  copy_bytes(image.first(std::min(image.size(), initial_.size())), initial_);
  const std::vector<std::byte> device = initial_;
  const bool exported = policy == ConfigPolicy::exporter;
  const Byte gap{.virt = static_cast<std::uint8_t>(exported ? 0xFF : 0),
                 .write = static_cast<std::uint8_t>(exported ? 0 : 0xFF),
                 .forwarded = !exported,
                 .owner = gap_owner,
                 .unit = units_++};
  std::ranges::fill(bytes_, gap);

  place({}, 0, config_size::header, ConfigTreatment::rules);
  const ConfigWalk walk = walk_capabilities(device);
  broken_list_ = walk.broken;
  for (const FoundCapability& found : walk.found) {
    const ConfigTreatment treatment = treatment_of(policy, found.structure);
    if (treatment == ConfigTreatment::hidden) continue;
    const std::uint16_t min_length = found.structure.part == ConfigPart::capability ? 2 : 4;
    place(found.structure, found.at, std::max(min_length, capability_length(found.structure, device, found.at)),
          treatment);
  }
  link_standard();
  if (size() > config_size::conventional) link_extended(device);
  if (!exported) return;
  for (std::size_t i = 0; i < size(); ++i) {
    if (bytes_[i].owner == gap_owner && bytes_[i].unit == gap.unit) initial_[i] = std::byte{0};
  }
}

const ConfigMap::Placed* ConfigMap::find(ConfigStructure structure) const {
  const auto found = std::ranges::find(structures_, structure, &Placed::structure);
  return found == structures_.end() ? nullptr : &*found;
}

void ConfigMap::place(ConfigStructure structure, std::uint16_t at, std::uint16_t length, ConfigTreatment treatment) {
  const bool standard = structure.part != ConfigPart::extended_capability;
  const std::size_t end =
      std::min<std::size_t>(std::size_t{at} + length, standard ? config_size::conventional : size());
  const auto owner = static_cast<std::uint16_t>(structures_.size());
  const Placed placed{structure, at, static_cast<std::uint16_t>(end - at)};
  structures_.push_back(placed);
  const bool forwarded = treatment == ConfigTreatment::forwarded;
  const Byte plain{.write = static_cast<std::uint8_t>(forwarded ? 0xFF : 0),
                   .forwarded = forwarded,
                   .owner = owner,
                   .unit = units_++};
  for (std::size_t i = at; i < end; ++i) {
    if (bytes_[i].owner == gap_owner) bytes_[i] = plain;
  }
  if (treatment == ConfigTreatment::rules) apply_rules(placed, owner);
  if (structure.part == ConfigPart::capability && end > at + 1u) {
    bytes_[at].write = 0;
    bytes_[at + 1u] = {.virt = 0xFF, .owner = owner, .unit = units_++};
  }
}

void ConfigMap::apply_rules(const Placed& placed, std::uint16_t owner) {
  std::uint8_t form = 0;
  if (placed.structure == ConfigStructure{ConfigPart::capability, capability_id::msi}) {
    const std::size_t control = placed.at + std::size_t{MsiControl::in_capability};
    form = msi_form_of(static_cast<std::uint16_t>(std::to_integer<unsigned>(initial_[control]) |
                                                  std::to_integer<unsigned>(initial_[control + 1]) << 8));
  }
  for (const ConfigRule& rule : config_rules(placed.structure)) {
    if (rule.forms != 0 && (rule.forms & form) == 0) continue;
    if (!range_within(rule.offset, rule.width, placed.length)) continue;
    apply_rule(rule, placed.at, owner, units_++);
  }
}

void ConfigMap::apply_rule(const ConfigRule& rule, std::uint16_t base, std::uint16_t owner, std::uint16_t unit) {
  const bool exported = policy_ == ConfigPolicy::exporter;
  const OverlayMasks& masks = exported ? rule.exporter : rule.kernel;
  for (unsigned i = 0; i < rule.width; ++i) {
    Byte& byte = bytes_[base + rule.offset + i];
    if (byte.owner != owner) continue;
    byte.virt = byte_of(masks.virt, i);
    byte.write = byte_of(masks.write, i);
    byte.write_one_clears = exported ? byte_of(rule.write_one_clears & ~masks.virt, i) : 0;
    byte.unit = unit;
    byte.action = rule.action;
  }
}

/// A register that is all ours, read-only, and part of no capability's rules.
void ConfigMap::set_virtual(std::size_t offset, std::uint32_t width, std::uint32_t value) {
  const std::uint16_t unit = units_++;
  for (unsigned i = 0; i < width && offset + i < size(); ++i) {
    bytes_[offset + i] = {.virt = 0xFF, .owner = bytes_[offset + i].owner, .unit = unit};
    initial_[offset + i] = std::byte{byte_of(value, i)};
  }
}

void ConfigMap::link_standard() {
  std::size_t link = raw(CapabilitiesPointer::offset);
  for (const Placed& placed : structures_) {
    if (placed.structure.part != ConfigPart::capability) continue;
    initial_[link] = static_cast<std::byte>(placed.at);
    link = placed.at + 1u;
  }
  initial_[link] = std::byte{0};
  if (link != raw(CapabilitiesPointer::offset)) return;
  // None is left: a walker does not even begin.
  std::byte& status = initial_[raw(StatusRegister::offset)];
  status &= ~static_cast<std::byte>(StatusRegister::capabilities_list.mask);
}

/// The header of each is ours whole, so that the list can be changed. The list begins at 0x100: a first capability that is
/// hidden leaves an empty one there that leads on.
void ConfigMap::link_extended(Bytes image) {
  using Header = ExtendedCapabilityHeader;
  std::uint16_t next = 0;
  for (std::size_t i = structures_.size(); i-- > 0;) {
    const Placed& placed = structures_[i];
    if (placed.structure.part != ConfigPart::extended_capability) continue;
    le32 stored;
    std::memcpy(&stored, image.data() + placed.at, sizeof stored);
    set_virtual(placed.at, 4, with(Header(stored), Header::next, next).value());
    next = placed.at;
  }
  if (next != config_size::conventional)
    set_virtual(config_size::conventional, 4, with(Header(), Header::next, next).value());
}

}  // namespace outboard::pci
