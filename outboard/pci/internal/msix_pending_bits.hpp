#pragma once

#include <cstdint>

#include <outboard/base/bytes.hpp>
#include <outboard/pci/internal/message_vectors.hpp>

/// The pending bits of MSI-X (PCI Local Bus 3.0, 6.8.2) and MSI as a driver reads them. A vector's bit is set while it has been
/// signalled and could not be delivered, since it was masked or unbound: MessageVectors::signal() sets it, refresh() clears it.
namespace outboard::pci {

/// A part of the MSI-X Pending Bit Array: one bit for each vector, those beyond the last one are 0.
inline void read_msix_pending_bits(const MessageVectors& vectors, std::uint64_t offset, MutableBytes into) {
  for (std::size_t i = 0; i < into.size(); ++i) {
    unsigned bits = 0;
    for (unsigned bit = 0; bit < 8; ++bit) {
      const std::uint64_t vector = (offset + i) * 8 + bit;
      if (vector < vectors.count() && vectors.pending(static_cast<unsigned>(vector))) bits |= 1u << bit;
    }
    into[i] = static_cast<std::byte>(bits);
  }
}

/// Whether an array has bits for these vectors and for no other one.
inline bool could_be_pending_bits(Bytes array, unsigned vectors) {
  if (array.size() != (std::size_t{vectors} + 63) / 64 * 8) return false;
  for (std::size_t vector = vectors; vector < array.size() * 8; ++vector) {
    if ((array[vector / 8] >> (vector % 8) & std::byte{1}) != std::byte{0}) return false;
  }
  return true;
}

/// The Pending Bits register of the MSI capability. At most 32 vectors.
inline std::uint32_t msi_pending_bits(const MessageVectors& vectors) {
  std::uint32_t bits = 0;
  for (unsigned vector = 0; vector < vectors.count(); ++vector) {
    if (vectors.pending(vector)) bits |= UINT32_C(1) << vector;
  }
  return bits;
}

}  // namespace outboard::pci
