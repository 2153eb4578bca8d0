#include <outboard/pci/internal/config_space.hpp>

#include <algorithm>

#include <fmt/format.h>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {

namespace {

using Row = ConfigSpace::Row;

std::uint32_t load(const std::vector<std::byte>& plane, std::uint64_t offset, std::uint8_t width) {
  std::uint32_t value = 0;
  for (unsigned i = 0; i < width && offset + i < plane.size(); ++i) {
    value |= std::to_integer<std::uint32_t>(plane[offset + i]) << (8 * i);
  }
  return value;
}

/// What of [offset, offset + length) lies inside a space of `size` bytes.
std::size_t inside(std::uint64_t offset, std::size_t length, std::size_t size) {
  return offset >= size ? 0 : std::min<std::size_t>(length, size - offset);
}

constexpr std::uint16_t aligned(std::uint32_t length) { return static_cast<std::uint16_t>((length + 3) & ~3u); }

/// What a function says it is: the values of the header that are not 0.
std::uint32_t header_value(ConfigOffset offset, const FunctionIdentity& identity) {
  switch (offset) {
    case VendorId::offset:
      return identity.vendor;
    case DeviceId::offset:
      return identity.device;
    case ClassAndRevision::offset:
      return identity.class_code << 8 | identity.revision;
    case SubsystemVendorId::offset:
      return identity.subsystem_vendor;
    case SubsystemId::offset:
      return identity.subsystem;
    default:
      return 0;
  }
}

/// The rule of a register, where there is one. MSI has several layouts: `form` says which one is meant.
const ConfigRule* rule_of(ConfigStructure structure, std::uint16_t offset, std::uint8_t width, std::uint8_t form) {
  for (const ConfigRule& rule : config_rules(structure)) {
    if (rule.offset == offset && rule.width == width && (rule.forms == 0 || (rule.forms & form) != 0)) return &rule;
  }
  return nullptr;
}

Row row_of(const ConfigRule* rule, const ConfigSpace::Present& present) {
  Row row{.offset = present.offset, .width = present.width, .value = present.value};
  if (rule == nullptr) return row;
  row.writable = rule->emulated_write & present.bits;
  row.write_one_clears = rule->write_one_clears & present.bits;
  row.sticky = rule->sticky;
  return row;
}

}  // namespace

ConfigSpace::ConfigSpace(const FunctionIdentity& identity) : last_link_(CapabilitiesPointer::offset) {
  const std::size_t size = identity.express ? config_size::express : config_size::conventional;
  for (Plane* plane : {&bytes_, &power_on_, &writable_, &write_one_clears_, &sticky_}) plane->resize(size);
  add_header(identity);
}

/// As a function without any BAR has it; who adds a BAR, an interrupt pin or a capability describes those anew.
void ConfigSpace::add_header(const FunctionIdentity& identity) {
  for (const ConfigRule& rule : config_rules(ConfigStructure{})) {
    const ConfigOffset at{rule.offset};
    ConfigSpace::Present present{.offset = rule.offset, .width = rule.width, .value = header_value(at, identity)};
    if (rule.action == ConfigAction::command)
      present.bits = ~static_cast<std::uint32_t>(Command::io_space.mask | Command::memory_space.mask);
    if (rule.action == ConfigAction::base_address) present.bits = 0;
    // PCI Express Base, 7.5.1.1.8: hardwired to 0.
    if (at == LatencyTimer::offset && identity.express) present.bits = 0;
    add(row_of(&rule, present));
  }
}

void ConfigSpace::allow_in_command(std::uint16_t bits) {
  const std::uint32_t now = load(writable_, raw(Command::offset), 2);
  store(writable_, raw(Command::offset), 2, now | bits);
}

void ConfigSpace::add_base_address(unsigned index, const BaseAddressSpec& spec) {
  BaseAddress flags;
  if (spec.is_64bit) flags = with(flags, BaseAddress::type, BaseAddress::type_64bit);
  if (spec.prefetchable) flags = with(flags, BaseAddress::prefetchable, 1);
  const std::uint64_t address_bits = ~(spec.size - 1);
  const auto add_register = [this](unsigned at, std::uint32_t value, std::uint64_t bits) {
    const std::uint16_t offset = raw(BaseAddress::offset_of(at));
    add(row_of(rule_of({}, offset, 4, 0),
               {.offset = offset, .width = 4, .value = value, .bits = static_cast<std::uint32_t>(bits)}));
  };
  add_register(index, flags.value(), address_bits);
  if (spec.is_64bit) add_register(index + 1, 0, address_bits >> 32);
  allow_in_command(Command::memory_space.mask);
}

void ConfigSpace::add_expansion_rom(std::uint32_t size) {
  const std::uint16_t offset = raw(ExpansionRomBase::offset);
  const std::uint32_t bits = (~(size - 1) & ExpansionRomBase::address_bits) | ExpansionRomBase::enable.mask;
  add(row_of(rule_of({}, offset, 4, 0), {.offset = offset, .width = 4, .bits = bits}));
  allow_in_command(Command::memory_space.mask);
}

Result<ConfigOffset> ConfigSpace::add_known(ConfigStructure structure, std::uint16_t length,
                                            std::span<const Present> present, std::uint8_t version) {
  std::uint8_t form = 0;
  if (structure == ConfigStructure{ConfigPart::capability, capability_id::msi} && !present.empty()) {
    form = msi_form_of(static_cast<std::uint16_t>(present.front().value));
  }
  std::vector<Row> rows;
  for (const Present& each : present) {
    rows.push_back(row_of(rule_of(structure, each.offset, each.width, form), each));
  }
  if (structure.part == ConfigPart::extended_capability) {
    return add_extended_capability(structure.id, version, length, rows);
  }
  return add_capability(static_cast<std::uint8_t>(structure.id), length, rows);
}

void ConfigSpace::store(Plane& plane, std::uint64_t offset, std::uint8_t width, std::uint32_t value) {
  for (unsigned i = 0; i < width && offset + i < plane.size(); ++i) {
    plane[offset + i] = static_cast<std::byte>(value >> (8 * i));
  }
}

void ConfigSpace::add(const Row& row) {
  if (!range_within(row.offset, row.width, size())) return;
  store(bytes_, row.offset, row.width, row.value);
  store(power_on_, row.offset, row.width, row.value);
  store(writable_, row.offset, row.width, row.writable);
  store(write_one_clears_, row.offset, row.width, row.write_one_clears);
  store(sticky_, row.offset, row.width, row.sticky);
}

bool ConfigSpace::rows_fit(std::span<const Row> rows, std::uint16_t length, std::uint16_t header) {
  return length >= header && std::ranges::all_of(rows, [&](const Row& row) {
           return row.offset >= header && range_within(row.offset, row.width, length);
         });
}

void ConfigSpace::add_rows(ConfigOffset at, std::span<const Row> rows) {
  for (Row row : rows) {
    row.offset = static_cast<std::uint16_t>(row.offset + raw(at));
    add(row);
  }
}

void ConfigSpace::set_power_on(ConfigOffset at, std::uint8_t width, std::uint32_t value) {
  store(bytes_, raw(at), width, value);
  store(power_on_, raw(at), width, value);
}

Result<ConfigOffset> ConfigSpace::add_capability(std::uint8_t id, std::uint16_t length, std::span<const Row> rows) {
  if (!rows_fit(rows, length, 2)) return Error(EINVAL, "a register lies outside its capability");
  if (!range_within(next_capability_, length, config_size::conventional)) {
    return Error(ENOSPC, "no room for another capability in the first 256 bytes of configuration space");
  }
  const ConfigOffset at{next_capability_};
  add({.offset = raw(at), .width = 1, .value = id});
  add_rows(at, rows);
  set_power_on(last_link_, 1, raw(at));
  set_power_on(StatusRegister::offset, 2, with(get<StatusRegister>(), StatusRegister::capabilities_list, 1).value());
  last_link_ = at + 1;
  next_capability_ = aligned(std::uint32_t{next_capability_} + length);
  return at;
}

Result<ConfigOffset> ConfigSpace::add_extended_capability(std::uint16_t id, std::uint8_t version, std::uint16_t length,
                                                          std::span<const Row> rows) {
  using Header = ExtendedCapabilityHeader;
  if (!rows_fit(rows, length, 4)) return Error(EINVAL, "a register lies outside its extended capability");
  if (!range_within(next_extended_, length, size())) {
    return Error(ENOSPC, "no room for another extended capability in configuration space");
  }
  const ConfigOffset at{next_extended_};
  const Header header = with(with(Header(), Header::id, id), Header::version, version);
  add({.offset = raw(at), .width = 4, .value = header.value()});
  add_rows(at, rows);
  if (last_extended_) {
    set_power_on(*last_extended_, 4, with(get_at<Header>(*last_extended_), Header::next, raw(at)).value());
  }
  last_extended_ = at;
  next_extended_ = aligned(std::uint32_t{next_extended_} + length);
  return at;
}

void ConfigSpace::on_write(ConfigOffset offset, std::uint8_t width, Handler handler) {
  hooks_.push_back({.offset = raw(offset), .width = width, .write = std::move(handler), .read = {}});
}

void ConfigSpace::on_read(ConfigOffset offset, std::uint8_t width, std::move_only_function<void()> handler) {
  hooks_.push_back({.offset = raw(offset), .width = width, .write = {}, .read = std::move(handler)});
}

void ConfigSpace::read(std::uint64_t offset, MutableBytes into) {
  const std::size_t length = inside(offset, into.size(), size());
  if (length != 0) {
    for (Hook& hook : hooks_) {
      if (hook.read && hook.touched_by(offset, length)) hook.read();
    }
    copy_bytes(Bytes(bytes_).subspan(offset, length), into);
  }
  std::ranges::fill(into.subspan(length), std::byte{0});
}

void ConfigSpace::write(std::uint64_t offset, Bytes from) {
  const std::size_t length = inside(offset, from.size(), size());
  if (length == 0) return;

  struct Touched {
    Hook* hook;
    std::uint32_t old_value;
  };
  std::vector<Touched> touched;
  for (Hook& hook : hooks_) {
    if (hook.write && hook.touched_by(offset, length))
      touched.push_back({&hook, load(bytes_, hook.offset, hook.width)});
  }

  for (std::size_t i = 0; i < length; ++i) {
    std::byte& value = bytes_[offset + i];
    const std::byte takes = writable_[offset + i];
    value = (value & ~takes) | (from[i] & takes);
    value &= ~(from[i] & write_one_clears_[offset + i]);
  }
  for (const Touched& each : touched)
    each.hook->write(each.old_value, load(bytes_, each.hook->offset, each.hook->width));
}

std::uint32_t ConfigSpace::get(ConfigOffset offset, std::uint8_t width) const {
  return load(bytes_, raw(offset), width);
}

void ConfigSpace::set(ConfigOffset offset, std::uint8_t width, std::uint32_t value) {
  store(bytes_, raw(offset), width, value);
}

void ConfigSpace::reset() {
  for (std::size_t i = 0; i < bytes_.size(); ++i) {
    bytes_[i] = (power_on_[i] & ~sticky_[i]) | (bytes_[i] & sticky_[i]);
  }
}

void ConfigSpace::save(StateWriter& writer) const {
  const auto section = writer.section(state_tag("CONF"), 1);
  writer.put_bytes(bytes_);
}

Result<Bytes> ConfigSpace::check_saved(StateReader& from) const {
  OUTBOARD_TRY(auto section, from.section(state_tag("CONF"), 1));
  OUTBOARD_TRY(const Bytes saved, section.get_bytes(config_size::express));
  OUTBOARD_CHECK(section.end());
  if (saved.size() != size())
    return Error(EINVAL, fmt::format("the saved configuration space has {} bytes, not {}", saved.size(), size()));
  Plane fixed(size(), std::byte{0xff});
  for (std::size_t at = 0; at < size(); ++at) fixed[at] &= ~(writable_[at] | write_one_clears_[at] | sticky_[at]);
  // What is made anew for each read.
  for (const Hook& hook : hooks_) {
    if (hook.read) std::ranges::fill(std::span(fixed).subspan(hook.offset, hook.width), std::byte{0});
  }
  for (std::size_t at = 0; at < size(); ++at) {
    if (((saved[at] ^ bytes_[at]) & fixed[at]) != std::byte{0})
      return Error(EINVAL, fmt::format("the saved configuration space is of another function: byte {:#x}", at));
  }
  return saved;
}

void ConfigSpace::restore(Bytes saved) { copy_bytes(saved, bytes_); }

}  // namespace outboard::pci
