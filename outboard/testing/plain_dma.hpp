#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <outboard/memory/address_map.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/memory/host_memory.hpp>

namespace outboard::testing {

/// A DmaSpace over plain memory of this process: each buffer has pages of its own, with a hole in the I/O addresses
/// after it. Knows what is allocated, so that a test can put it into an AddressMap, or look an address up by hand.
class PlainDma final : public memory::DmaSpace {
 public:
  using memory::DmaSpace::allocate;
  Result<memory::DmaBuffer> allocate(std::uint64_t size, const Options& options) override;
  Result<memory::DmaBuffer> map(MutableBytes memory, const UniqueFd* fd, std::uint64_t offset) override;
  Limits limits() const override;

  /// What is allocated now, as a device's address map would have it.
  std::vector<memory::Mapping> mappings() const;
  /// The bytes at an I/O address; throws where there are none, or fewer than `size`.
  std::byte* host(memory::Iova iova, std::uint64_t size) const;

 protected:
  void release(MutableBytes bytes, memory::Iova iova) override;

 private:
  std::vector<memory::Mapping> mappings_;
  std::uint64_t next_ = UINT64_C(0x1'0000'0000);
};

}  // namespace outboard::testing
