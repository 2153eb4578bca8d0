#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {

/// The MSI-X table, byte by byte.
class MsixTableBytes {
 public:
  void resize(unsigned vectors) {
    bytes_.resize(std::size_t{vectors} * msix_entry::size);
    reset();
  }
  std::size_t size() const { return bytes_.size(); }

  /// PCI Local Bus 3.0, 6.8.2: after a reset every vector is masked.
  void reset() {
    std::ranges::fill(bytes_, std::byte{0});
    for (std::size_t at = msix_entry::vector_control; at < bytes_.size(); at += msix_entry::size) bytes_[at] = mask_bit;
  }

  bool masked(unsigned vector) const {
    return (bytes_[std::size_t{vector} * msix_entry::size + msix_entry::vector_control] & mask_bit) != std::byte{0};
  }

  /// offset < size().
  std::byte read(std::size_t offset) const { return bytes_[offset]; }
  void write(std::size_t offset, std::byte value) { bytes_[offset] = value & writable(offset % msix_entry::size); }
  /// Whether a driver could have written such a table.
  bool could_be(Bytes table) const {
    if (table.size() != size()) return false;
    for (std::size_t at = 0; at < table.size(); ++at) {
      if ((table[at] & ~writable(at % msix_entry::size)) != std::byte{0}) return false;
    }
    return true;
  }

 private:
  static constexpr std::byte mask_bit{mask_of(MsixVectorControl::mask)};

  static std::byte writable(std::size_t offset) {
    if (offset == msix_entry::address) return std::byte{message_address_bits & 0xFF};
    if (offset < msix_entry::vector_control) return std::byte{0xFF};
    return offset == msix_entry::vector_control ? mask_bit : std::byte{0};
  }

  std::vector<std::byte> bytes_;
};

}  // namespace outboard::pci
