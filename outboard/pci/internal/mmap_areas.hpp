#pragma once

#include <cstdint>
#include <vector>

#include <outboard/pci/function.hpp>

namespace outboard::pci {

/// The mappable areas without the pages that overlap [start, start + size).
std::vector<MmapArea> areas_without(const std::vector<MmapArea>& areas, std::uint64_t start, std::uint64_t size);

}  // namespace outboard::pci
