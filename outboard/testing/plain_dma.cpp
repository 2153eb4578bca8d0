#include <outboard/testing/plain_dma.hpp>

#include <algorithm>
#include <stdexcept>

namespace outboard::testing {

namespace {
constexpr std::uint64_t page = 4096;
}

Result<memory::DmaBuffer> PlainDma::allocate(std::uint64_t size, const Options& options) {
  if (size == 0) return Error(EINVAL, "an empty DMA buffer");
  const std::uint64_t alignment = std::max(page, options.alignment);
  const std::uint64_t rounded = (size + page - 1) / page * page;
  OUTBOARD_TRY(auto memory, memory::HostMemory::anonymous(rounded));
  next_ = (next_ + alignment - 1) / alignment * alignment;
  const memory::Iova start{next_};
  const MutableBytes bytes(memory->data(), size);
  mappings_.push_back({.range = {start, rounded}, .memory = std::move(memory)});
  next_ += rounded + page;
  return memory::DmaBuffer(*this, bytes, start);
}

Result<memory::DmaBuffer> PlainDma::map(MutableBytes memory, const UniqueFd*, std::uint64_t) {
  const memory::Iova start{next_};
  mappings_.push_back({.range = {start, memory.size()}, .memory = memory::HostMemory::borrowed(memory)});
  next_ += memory.size() + page;
  return memory::DmaBuffer(*this, memory, start);
}

memory::DmaSpace::Limits PlainDma::limits() const {
  return {.page_size = page, .valid = {{memory::Iova{0}, UINT64_C(1) << 48}}};
}

std::vector<memory::Mapping> PlainDma::mappings() const { return mappings_; }

std::byte* PlainDma::host(memory::Iova iova, std::uint64_t size) const {
  for (const auto& mapping : mappings_)
    if (mapping.range.contains({iova, std::max<std::uint64_t>(size, 1)})) return mapping.host(iova);
  throw std::out_of_range("no DMA memory at this address");
}

void PlainDma::release(MutableBytes, memory::Iova iova) {
  std::erase_if(mappings_, [&](const auto& mapping) { return mapping.range.start == iova; });
}

}  // namespace outboard::testing
