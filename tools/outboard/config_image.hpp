#pragma once

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/endian.hpp>
#include <outboard/pci/address.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::command {

/// A copy of a function's configuration space, taken once, so that the output is consistent even if a peer changes its values.
/// Reads beyond the end give 0.
class ConfigImage {
 public:
  ConfigImage() = default;
  explicit ConfigImage(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}

  /// Reads the configuration space and the sizes of the regions.
  static Result<ConfigImage> of(pci::Handle& handle);

  Bytes bytes() const { return bytes_; }
  std::size_t size() const { return bytes_.size(); }

  /// The address of a function of this machine, else 0000:00:00.0.
  pci::Address address() const { return address_; }
  void set_address(pci::Address address) { address_ = address; }

  /// A little-endian number at any offset.
  template <std::unsigned_integral T>
  T number(std::size_t offset) const {
    EndianInteger<T, std::endian::little> value;
    if (!range_within(offset, sizeof(T), bytes_.size())) return 0;
    std::memcpy(&value, bytes_.data() + offset, sizeof(T));
    return value;
  }
  /// A register of the header.
  template <typename R>
  R at() const {
    return R(number<typename R::value_type>(pci::raw(R::offset)));
  }
  /// A Base Address register; index < BaseAddress::count.
  pci::BaseAddress base_address(unsigned index) const {
    return pci::BaseAddress(number<std::uint32_t>(pci::raw(pci::BaseAddress::offset_of(index))));
  }
  /// A register of the capability that lies at `capability`.
  template <typename R>
  R at(std::size_t capability) const {
    return R(number<typename R::value_type>(capability + R::in_capability));
  }

  /// In bytes; 0: the region does not exist, or its size is unknown.
  std::uint64_t region_size(unsigned region) const { return region < region_sizes_.size() ? region_sizes_[region] : 0; }
  void set_region_size(unsigned region, std::uint64_t size) { region_sizes_.at(region) = size; }

  /// The capabilities in list order. `broken`: the list loops or leaves the space of capabilities, and was cut there.
  struct Walk {
    std::vector<pci::Capability> found;
    bool broken = false;
    bool looped = false;
  };
  Walk capabilities() const;
  Walk extended_capabilities() const;

 private:
  pci::Address address_;
  std::vector<std::byte> bytes_;
  std::array<std::uint64_t, pci::region::rom + 1> region_sizes_{};
};

}  // namespace outboard::command
