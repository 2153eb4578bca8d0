#include <outboard/testing/config_device.hpp>

namespace outboard::testing {

namespace {

std::uint32_t load(Bytes bytes) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) value |= std::to_integer<std::uint32_t>(bytes[i]) << (8 * i);
  return value;
}

}  // namespace

ConfigDevice::ConfigDevice() : bytes_(4096) {
  put(0x00, 4, 0x56781234);
  put(0x04, 4, 0x00100003);  // decoding; has capabilities
  put(0x08, 4, 0x01080207);
  put(0x10, 4, 0xFEB00000);
  put(0x18, 4, 0xE000000C);  // 64 bits, prefetchable
  put(0x1C, 4, 0x00000001);
  put(0x24, 4, 0x0000C001);  // I/O
  put(0x2C, 4, 0xDEF09ABC);
  put(0x30, 4, 0xFEA00000);
  put(0x34, 1, power);
  put(0x3C, 2, 0x010A);

  put(power, 4, 0xC8030001 | vpd << 8);
  put(vpd, 4, 0x00000003 | msi << 8);
  put(msi, 4, 0x01860005 | express << 8);  // 8 vectors, 64 bits, maskable
  put(express, 4, 0x00020010 | msix << 8);
  put(express + 4, 4, 0x10008020);  // function level reset, extended tags
  put(msix, 4, 0x00070011 | features << 8);
  put(msix + 4, 4, 0x00002000);
  put(msix + 8, 4, 0x00003000);
  put(features, 4, 0x03060013 | vendor << 8);
  put(vendor, 4, 0x00080009 | hidden << 8);
  put(hidden, 4, 0x00000014);

  put(errors, 4, 0x00020001 | hidden_extended << 20);
  put(hidden_extended, 4, 0x0001001B | serial << 20);
  put(serial, 4, 0x00010003 | designated << 20);
  put(serial + 4, 4, 0x89ABCDEF);
  put(designated, 4, 0x00010023 | translation << 20);
  put(designated + 4, 4, 0x01001AF4);  // 16 bytes
  put(translation, 4, 0x0001000F);
}

std::uint32_t ConfigDevice::get(std::uint16_t at, unsigned width) const {
  return load(Bytes(bytes_).subspan(at, width));
}

void ConfigDevice::put(std::uint16_t at, unsigned width, std::uint32_t value) {
  for (unsigned i = 0; i < width; ++i) bytes_[std::size_t{at} + i] = static_cast<std::byte>(value >> (8 * i));
}

Status ConfigDevice::read_config(std::uint16_t offset, MutableBytes into) {
  ++reads;
  if (!range_within(offset, into.size(), bytes_.size())) return Error(EFAULT, "beyond configuration space");
  copy_bytes(Bytes(bytes_).subspan(offset, into.size()), into);
  return {};
}

Status ConfigDevice::write_config(std::uint16_t offset, Bytes from) {
  if (!range_within(offset, from.size(), bytes_.size())) return Error(EFAULT, "beyond configuration space");
  writes.push_back({offset, from.size(), load(from)});
  copy_bytes(from, MutableBytes(bytes_).subspan(offset));
  return {};
}

std::optional<std::uint32_t> ConfigDevice::read_vital_product_data(std::uint16_t address) {
  if (address / 4u >= product_data.size()) return std::nullopt;
  return product_data[address / 4u];
}

bool ConfigDevice::write_vital_product_data(std::uint16_t address, std::uint32_t data) {
  if (address / 4u >= product_data.size()) return false;
  product_data[address / 4u] = data;
  return true;
}

}  // namespace outboard::testing
