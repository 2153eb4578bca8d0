#include <outboard/pci/config_walk.hpp>

#include <bitset>

#include <outboard/base/endian.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {

namespace {

constexpr std::uint16_t standard_begin = config_size::header, extended_begin = config_size::conventional;
constexpr std::uint16_t last_standard = config_size::conventional - 4;
constexpr std::size_t max_space = config_size::express;

template <typename R>
R load(Bytes image, std::uint16_t at) {
  EndianInteger<typename R::value_type, std::endian::little> value;
  if (range_within(at, sizeof value, image.size())) std::memcpy(&value, image.data() + at, sizeof value);
  return R(value);
}

class Walker {
 public:
  explicit Walker(Bytes image) : image_(image) {}

  ConfigWalk walk() {
    if (load<StatusRegister>(image_, raw(StatusRegister::offset)).get(StatusRegister::capabilities_list) != 0) {
      walk_standard(capability_at(load<CapabilitiesPointer>(image_, raw(CapabilitiesPointer::offset)).value()));
    }
    if (image_.size() > extended_begin) walk_extended();
    return std::move(walk_);
  }

 private:
  void walk_standard(std::uint16_t at) {
    while (at != 0 && visit(at, standard_begin, last_standard)) {
      const auto header = load<CapabilityHeader>(image_, at);
      if (header.value() == 0xFFFF) return end();
      const std::uint16_t next = capability_at(header.get(CapabilityHeader::next));
      walk_.found.push_back({{ConfigPart::capability, header.get(CapabilityHeader::id)}, at, next});
      at = next;
    }
  }

  void walk_extended() {
    const auto last = static_cast<std::uint16_t>(std::min(image_.size(), max_space) - 4);
    std::uint16_t at = extended_begin;
    while (at != 0 && visit(at, extended_begin, last)) {
      const auto header = load<ExtendedCapabilityHeader>(image_, at);
      // Behind a conventional bus extended configuration space does not answer.
      if (header.value() == UINT32_MAX) return at == extended_begin ? void() : end();
      const auto id = static_cast<std::uint16_t>(header.get(ExtendedCapabilityHeader::id));
      const std::uint16_t next = capability_at(header.get(ExtendedCapabilityHeader::next));
      if (id != extended_capability_id::null) {
        walk_.found.push_back({{ConfigPart::extended_capability, id}, at, next});
      }
      at = next;
    }
  }

  bool visit(std::uint16_t at, std::uint16_t first, std::uint16_t last) {
    const bool good = at >= first && at <= last && !seen_.test(at / 4u);
    if (!good) end();
    if (good) seen_.set(at / 4u);
    return good;
  }
  void end() { walk_.broken = true; }

  Bytes image_;
  std::bitset<max_space / 4> seen_;
  ConfigWalk walk_;
};

}  // namespace

ConfigWalk walk_capabilities(Bytes image) { return Walker(image.first(std::min(image.size(), max_space))).walk(); }

}  // namespace outboard::pci
