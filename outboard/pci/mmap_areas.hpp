#pragma once

#include <cstdint>
#include <vector>

#include <outboard/pci/function.hpp>

namespace outboard::pci {

/// What is left of mappable areas without the pages that [start, start + size) touches.
std::vector<MmapArea> areas_without(const std::vector<MmapArea>& areas, std::uint64_t start, std::uint64_t size);

}  // namespace outboard::pci
