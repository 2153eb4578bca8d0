#include <algorithm>
#include <bitset>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/pci/registers.hpp>

/// The capability walk. What it reads comes from a device, which may be on the other end of a socket and lie: no pointer
/// is followed out of its part of configuration space, or twice, so a walk ends after 48 or 960 steps.
namespace outboard::pci {

namespace {

constexpr std::uint16_t first_capability = config_size::header, first_extended = config_size::conventional;
constexpr std::uint16_t last_capability = config_size::conventional - 4;

Error no_answer() { return Error(ENODEV, "configuration space reads as all-ones: the function does not answer"); }

/// Remembers the places visited. The list of capabilities may not come back to one of them.
class Visited {
 public:
  /// EPROTO: `at` is outside [first, last], or was visited before.
  Status visit(std::uint16_t at, std::uint16_t first, std::uint16_t last) {
    if (at < first || at > last) return Error(EPROTO, say("points outside, to", at));
    if (seen_.test(at / 4)) return Error(EPROTO, say("comes back to", at));
    seen_.set(at / 4);
    return {};
  }

 private:
  static std::string say(std::string_view what, std::uint16_t at) {
    return fmt::format("the capability list {} {:#05x}", what, at);
  }
  std::bitset<config_size::express / 4> seen_;
};

}  // namespace

Result<std::vector<Capability>> Handle::capabilities() {
  std::vector<Capability> list;
  OUTBOARD_CHECK(append_standard_capabilities(list));
  OUTBOARD_CHECK(append_extended_capabilities(list));
  return list;
}

Status Handle::append_standard_capabilities(std::vector<Capability>& list) {
  OUTBOARD_TRY(const auto vendor, config().read<VendorId>());
  if (vendor.value() == VendorId::absent) return no_answer();
  OUTBOARD_TRY(const auto status, config().read<StatusRegister>());
  if (status.get(StatusRegister::capabilities_list) == 0) return {};
  OUTBOARD_TRY(const auto pointer, config().read<CapabilitiesPointer>());

  Visited visited;
  for (std::uint16_t at = capability_at(pointer.value()); at != 0;) {
    OUTBOARD_CHECK(visited.visit(at, first_capability, last_capability));
    OUTBOARD_TRY(const auto header, config().read_at<CapabilityHeader>(ConfigOffset{at}));
    if (header.value() == 0xFFFF) return no_answer();
    list.push_back({.id = header.get(CapabilityHeader::id), .offset = ConfigOffset{at}});
    at = capability_at(header.get(CapabilityHeader::next));
  }
  return {};
}

Status Handle::append_extended_capabilities(std::vector<Capability>& list) {
  using Header = ExtendedCapabilityHeader;
  OUTBOARD_TRY(const RegionInfo space, region(region::config));
  if (space.size <= first_extended) return {};
  const auto last = static_cast<std::uint16_t>(std::min<std::uint64_t>(space.size, config_size::express) - 4);

  Visited visited;
  for (std::uint16_t at = first_extended; at != 0;) {
    OUTBOARD_CHECK(visited.visit(at, first_extended, last));
    OUTBOARD_TRY(const auto header, config().read_at<Header>(ConfigOffset{at}));
    if (header.value() == UINT32_MAX) {
      // Behind a conventional bus the function answers, its extended configuration space does not.
      if (at == first_extended) return {};
      return no_answer();
    }
    // A first capability that was hidden leaves an empty one, which only leads on to the next.
    if (header.get(Header::id) != extended_capability_id::null) {
      list.push_back({.id = static_cast<std::uint16_t>(header.get(Header::id)),
                      .offset = ConfigOffset{at},
                      .version = static_cast<std::uint8_t>(header.get(Header::version)),
                      .extended = true});
    }
    at = capability_at(header.get(Header::next));
  }
  return {};
}

Result<std::optional<Capability>> Handle::find_capability(std::uint16_t id, bool extended) {
  std::vector<Capability> list;
  OUTBOARD_CHECK(extended ? append_extended_capabilities(list) : append_standard_capabilities(list));
  for (const Capability& capability : list) {
    if (capability.id == id) return std::optional(capability);
  }
  return std::optional<Capability>();
}

}  // namespace outboard::pci
