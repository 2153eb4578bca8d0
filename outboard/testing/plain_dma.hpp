#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <outboard/memory/address_map.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/memory/host_memory.hpp>

namespace outboard::testing {

/// A DmaSpace over plain memory of this process: each buffer has pages of its own, followed by a hole in the I/O addresses. A
/// test can put the allocated memory into an AddressMap, or look up an address.
class PlainDma final : public memory::DmaSpace {
 public:
  using memory::DmaSpace::allocate;
  Result<memory::DmaBuffer> allocate(std::uint64_t size, const Options& options) override;
  Result<memory::DmaBuffer> map(MutableBytes memory, const UniqueFd* fd, std::uint64_t offset) override;
  Limits limits() const override;

  /// The allocated memory, as mappings for a device's address map.
  std::vector<memory::Mapping> mappings() const;
  /// The bytes at an I/O address; throws if fewer than `size` are allocated there.
  std::byte* host(memory::Iova iova, std::uint64_t size) const;

 protected:
  void release(MutableBytes bytes, memory::Iova iova) override;

 private:
  std::vector<memory::Mapping> mappings_;
  std::uint64_t next_ = UINT64_C(0x1'0000'0000);
};

}  // namespace outboard::testing
