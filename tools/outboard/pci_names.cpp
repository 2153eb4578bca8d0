#include <tools/outboard/pci_names.hpp>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include <outboard/virtio_pci/registers.hpp>
#include <tools/outboard/virtio_names.hpp>

namespace outboard::command {

namespace {

/// The hexadecimal number of `digits` digits that `text` starts with; it is taken off, with the blanks behind it.
std::optional<std::uint32_t> take_number(std::string_view& text, std::size_t digits) {
  std::uint32_t value = 0;
  if (text.size() < digits) return std::nullopt;
  const std::string_view number = text.substr(0, digits);
  const auto [end, error] = std::from_chars(number.begin(), number.end(), value, 16);
  if (error != std::errc{} || end != number.end()) return std::nullopt;
  text.remove_prefix(digits);
  while (text.starts_with(' ')) text.remove_prefix(1);
  return value;
}

}  // namespace

PciNames PciNames::load(std::initializer_list<const char*> files) {
  PciNames names;
  names.add_built_in();
  for (const char* path : files) {
    std::ifstream file(path, std::ios::binary);
    if (!file) continue;
    names.read_file(std::string(std::istreambuf_iterator<char>(file), {}));
    break;
  }
  return names;
}

void PciNames::add_built_in() {
  namespace spec = virtio_pci::spec;
  add(Kind::vendor, spec::vendor_id, "Red Hat, Inc.");
  for (const VirtioTypeName& type : virtio_type_names()) {
    if (type.in_pci_ids.empty()) continue;
    add(Kind::device, std::uint64_t{spec::vendor_id} << 16 | (spec::first_modern_device + type.device_id),
        fmt::format("Virtio 1.0 {}", type.in_pci_ids));
  }
  add(Kind::base_class, 0x00, "Unclassified device");
  add(Kind::base_class, 0x01, "Mass storage controller");
  add(Kind::base_class, 0x02, "Network controller");
  add(Kind::subclass, 0x0100, "SCSI storage controller");
  add(Kind::subclass, 0x0180, "Mass storage controller");
  add(Kind::subclass, 0x0200, "Ethernet controller");
}

void PciNames::read_file(const std::string& text) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    read_line(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
}

// Numbers at the left margin are vendors, or classes behind a C; one tab in, devices or subclasses; two tabs in,
// subsystems or programming interfaces.
void PciNames::read_line(std::string_view line) {
  if (line.empty() || line[0] == '#') return;
  if (line.starts_with("\t\t")) {
    line.remove_prefix(2);
    if (in_classes_) {
      if (const auto id = take_number(line, 2)) add(Kind::interface, middle_ << 8 | *id, line);
    } else {
      const auto vendor = take_number(line, 4), device = take_number(line, 4);
      if (vendor && device) subsystems_.insert_or_assign({middle_, *vendor << 16 | *device}, std::string(line));
    }
  } else if (line[0] == '\t') {
    line.remove_prefix(1);
    const auto id = take_number(line, in_classes_ ? 2 : 4);
    if (!id) return;
    middle_ = outer_ << (in_classes_ ? 8 : 16) | *id;
    add(in_classes_ ? Kind::subclass : Kind::device, middle_, line);
  } else {
    in_classes_ = line.starts_with("C ");
    if (in_classes_) line.remove_prefix(2);
    const auto id = take_number(line, in_classes_ ? 2 : 4);
    outer_ = id.value_or(0);
    if (id) add(in_classes_ ? Kind::base_class : Kind::vendor, *id, line);
  }
}

void PciNames::add(Kind kind, std::uint64_t numbers, std::string_view name) {
  names_.insert_or_assign(key(kind, numbers), std::string(name));
}

const std::string* PciNames::find(Kind kind, std::uint64_t numbers) const {
  const auto found = names_.find(key(kind, numbers));
  return found == names_.end() ? nullptr : &found->second;
}

std::string PciNames::device(std::uint16_t vendor, std::uint16_t device) const {
  const auto* vendor_name = find(Kind::vendor, vendor);
  const auto* device_name = find(Kind::device, std::uint64_t{vendor} << 16 | device);
  if (vendor_name == nullptr) return fmt::format("Device {:04x}:{:04x}", vendor, device);
  return fmt::format("{} {}", *vendor_name,
                     device_name != nullptr ? *device_name : fmt::format("Device {:04x}", device));
}

std::string PciNames::subsystem(std::uint16_t vendor, std::uint16_t device, std::uint16_t subsystem_vendor,
                                std::uint16_t subsystem) const {
  const auto* vendor_name = find(Kind::vendor, subsystem_vendor);
  if (vendor_name == nullptr) return fmt::format("Device {:04x}:{:04x}", subsystem_vendor, subsystem);
  const auto found =
      subsystems_.find({std::uint32_t{vendor} << 16 | device, std::uint32_t{subsystem_vendor} << 16 | subsystem});
  const std::string* name = found != subsystems_.end() ? &found->second : nullptr;
  if (name == nullptr && vendor == subsystem_vendor && device == subsystem)
    name = find(Kind::device, std::uint64_t{vendor} << 16 | device);
  return fmt::format("{} {}", *vendor_name, name != nullptr ? *name : fmt::format("Device {:04x}", subsystem));
}

std::string PciNames::device_class(std::uint16_t base_and_subclass) const {
  if (const auto* name = find(Kind::subclass, base_and_subclass)) return *name;
  if (const auto* name = find(Kind::base_class, base_and_subclass >> 8))
    return fmt::format("{} [{:04x}]", *name, base_and_subclass);
  return fmt::format("Class [{:04x}]", base_and_subclass);
}

std::optional<std::string> PciNames::interface(std::uint32_t class_code) const {
  const auto* name = find(Kind::interface, class_code);
  return name == nullptr ? std::nullopt : std::optional(*name);
}

}  // namespace outboard::command
