#include <tools/outboard/lspci/sysfs_snapshot.hpp>

#include <fmt/format.h>

#include <outboard/pci/registers.hpp>

namespace outboard::command {

namespace {

using pci::BaseAddress;

// The kernel's include/linux/ioport.h; the lowest four bits of the flags are those of the base address register.
constexpr std::uint64_t io_resource = 0x100, memory_resource = 0x200, prefetch_resource = 0x2000,
                        read_only_resource = 0x4000, sized_resource = 0x40000, wide_resource = 0x100000;
constexpr unsigned no_line = 0xff;

struct Resource {
  std::uint64_t start = 0, size = 0, flags = 0;
};

std::string line_of(const Resource& resource) {
  if (resource.size == 0) return fmt::format("0x{0:016x} 0x{0:016x} 0x{0:016x}\n", 0);
  return fmt::format("0x{:016x} 0x{:016x} 0x{:016x}\n", resource.start, resource.start + (resource.size - 1),
                     resource.flags);
}

bool is_wide(BaseAddress low) {
  return low.get(BaseAddress::io_space) == 0 && low.get(BaseAddress::type) == BaseAddress::type_64bit;
}

Resource bar_resource(const ConfigImage& image, unsigned index) {
  const BaseAddress low = image.base_address(index);
  Resource resource{0, image.region_size(index), sized_resource};
  if (low.get(BaseAddress::io_space) != 0) {
    resource.start = low.value() & ~BaseAddress::io_flags;
    resource.flags |= io_resource | (low.value() & BaseAddress::io_flags);
    return resource;
  }
  resource.start = low.value() & ~BaseAddress::memory_flags;
  resource.flags |= memory_resource | (low.value() & BaseAddress::memory_flags);
  if (low.get(BaseAddress::prefetchable) != 0) resource.flags |= prefetch_resource;
  if (is_wide(low) && index + 1 < BaseAddress::count) {
    resource.start |= std::uint64_t{image.base_address(index + 1).value()} << 32;
    resource.flags |= wide_resource;
  }
  return resource;
}

Resource rom_resource(const ConfigImage& image) {
  return {image.at<pci::ExpansionRomBase>().value() & pci::ExpansionRomBase::address_bits,
          image.region_size(pci::region::rom),
          memory_resource | prefetch_resource | read_only_resource | sized_resource};
}

/// Seven lines: the BARs, the expansion ROM. The upper half of a wide BAR is none.
std::string resources(const ConfigImage& image) {
  std::string text;
  bool upper_half = false;
  for (unsigned index = 0; index < BaseAddress::count; ++index) {
    text += line_of(upper_half ? Resource{} : bar_resource(image, index));
    upper_half = !upper_half && is_wide(image.base_address(index));
  }
  return text + line_of(rom_resource(image));
}

unsigned interrupt_line(const ConfigImage& image) {
  const unsigned line = image.at<pci::InterruptLine>().value();
  return image.at<pci::InterruptPin>().value() == 0 || line == no_line ? 0 : line;
}

std::string bytes_of(const ConfigImage& image) {
  const auto bytes = image.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

FileSet sysfs_snapshot(const ConfigImage& image, const std::filesystem::path& root) {
  const std::string folder = "devices/" + image.address().text();
  const auto code = image.at<pci::ClassAndRevision>();
  return {root,
          {folder},
          {{folder + "/config", bytes_of(image)},
           {folder + "/vendor", fmt::format("0x{:04x}\n", image.at<pci::VendorId>().value())},
           {folder + "/device", fmt::format("0x{:04x}\n", image.at<pci::DeviceId>().value())},
           {folder + "/subsystem_vendor", fmt::format("0x{:04x}\n", image.at<pci::SubsystemVendorId>().value())},
           {folder + "/subsystem_device", fmt::format("0x{:04x}\n", image.at<pci::SubsystemId>().value())},
           {folder + "/class", fmt::format("0x{:06x}\n", code.get(pci::ClassAndRevision::class_code))},
           {folder + "/revision", fmt::format("0x{:02x}\n", code.get(pci::ClassAndRevision::revision))},
           {folder + "/irq", fmt::format("{}\n", interrupt_line(image))},
           {folder + "/resource", resources(image)}}};
}

}  // namespace outboard::command
