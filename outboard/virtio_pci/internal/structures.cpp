#include <outboard/virtio_pci/internal/structures.hpp>

#include <bit>
#include <string_view>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::virtio_pci {

namespace {

/// What a structure has to be like, so that a driver can use it.
struct Demand {
  std::uint32_t alignment;
  std::uint32_t length;
  std::uint8_t cap_len;
};

std::optional<Demand> demand(spec::Structure type) {
  switch (type) {
    // VIRTIO 1.4, 4.1.4.3.1: "offset MUST be 4-byte aligned."
    case spec::Structure::common:
      return Demand{4, spec::common_config_min_size, sizeof(spec::Capability)};
    // 4.1.4.4.1: "The cap.offset MUST be 2-byte aligned", and "cap.length [...] MUST be at least 2".
    case spec::Structure::notify:
      return Demand{2, 2, spec::notify_capability_size};
    case spec::Structure::isr:
      return Demand{1, 1, sizeof(spec::Capability)};
    // 4.1.4.6.1: "The offset for the device-specific configuration MUST be 4-byte aligned."
    case spec::Structure::device:
      return Demand{4, 1, sizeof(spec::Capability)};
    default:
      return std::nullopt;  // of no use to a driver that reaches the BARs
  }
}

/// The BAR, if it is memory.
Result<std::optional<pci::Bar>> memory_bar(pci::Handle& handle, unsigned index) {
  OUTBOARD_TRY(const auto base, handle.config().read_at<pci::BaseAddress>(pci::BaseAddress::offset_of(index)));
  if (base.get(pci::BaseAddress::io_space) != 0) return std::optional<pci::Bar>();
  auto bar = handle.bar(index);
  if (bar) return std::optional(*bar);
  if (bar.error().code() == ENODEV) return std::optional<pci::Bar>();
  return bar.error();
}

struct Found {
  std::optional<Structure> common, notify, isr, device;
  std::uint32_t notify_off_multiplier = 0;

  std::optional<Structure>* slot(spec::Structure type) {
    switch (type) {
      case spec::Structure::common:
        return &common;
      case spec::Structure::notify:
        return &notify;
      case spec::Structure::isr:
        return &isr;
      case spec::Structure::device:
        return &device;
      default:
        return nullptr;
    }
  }
};

/// Takes one capability in, if it is the first usable one of its type.
Status consider(pci::Handle& handle, pci::ConfigOffset at, Found& found) {
  spec::Capability capability{};
  if (raw(at) + sizeof capability > pci::config_size::conventional) return {};
  OUTBOARD_CHECK(handle.read_region(pci::region::config, raw(at), as_writable_bytes_of(capability)));
  const auto type = static_cast<spec::Structure>(capability.cfg_type);
  const auto wanted = demand(type);
  // VIRTIO 1.4, 4.1.4.1: the driver ignores structures of a type it does not know, and those with a reserved BAR.
  if (!wanted || capability.bar > pci::region::bar5 || found.slot(type)->has_value()) return {};
  if (capability.cap_len < wanted->cap_len || raw(at) + wanted->cap_len > pci::config_size::conventional) return {};
  if (capability.offset % wanted->alignment != 0 || capability.length < wanted->length) return {};
  OUTBOARD_TRY(const auto bar, memory_bar(handle, capability.bar));
  if (!bar || !range_within(capability.offset, capability.length, bar->size())) return {};
  if (type == spec::Structure::notify) {
    le32 multiplier;
    OUTBOARD_CHECK(handle.read_region(pci::region::config, raw(at) + spec::notify_off_multiplier,
                                      as_writable_bytes_of(multiplier)));
    // 4.1.4.4.1: "notify_off_multiplier MUST be [...] an even power of 2, or 0", which means 2, 4, 8 and so on.
    if (multiplier != 0 && (multiplier % 2 != 0 || !std::has_single_bit(std::uint32_t{multiplier}))) return {};
    found.notify_off_multiplier = multiplier;
  }
  found.slot(type)->emplace(handle, *bar, capability.offset, capability.length);
  return {};
}

}  // namespace

Structure::Structure(pci::Handle& handle, pci::Bar bar, std::uint32_t offset, std::uint32_t length)
    : handle_(&handle), bar_(bar), offset_(offset), length_(length), window_(window(0, length)) {}

Status Structure::post(std::uint64_t at, Bytes bytes) const {
  return handle_->post_write(bar_.index(), offset_ + at, bytes);
}

pci::Window Structure::window(std::uint64_t at, std::uint64_t length) const {
  auto mapped = bar_.window(offset_ + at, length);
  return mapped ? *mapped : pci::Window();
}

Result<Structures> find_structures(pci::Handle& handle) {
  OUTBOARD_TRY(const auto capabilities, handle.capabilities());
  Found found;
  for (const pci::Capability& capability : capabilities) {
    if (!capability.extended && capability.id == pci::capability_id::vendor_specific)
      OUTBOARD_CHECK(consider(handle, capability.offset, found));
  }
  const auto missing = [&](std::string_view what) {
    return Error(ENODEV, "no usable virtio capability for " + std::string(what)).on(handle.name());
  };
  if (!found.common) return missing("the common configuration");
  if (!found.notify) return missing("notifications");
  if (!found.isr) return missing("the ISR status");
  return Structures{.common = *found.common,
                    .notify = *found.notify,
                    .isr = *found.isr,
                    .device = found.device,
                    .notify_off_multiplier = found.notify_off_multiplier};
}

}  // namespace outboard::virtio_pci
