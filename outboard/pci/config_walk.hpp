#pragma once

#include <cstdint>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/pci/internal/config_rules.hpp>

namespace outboard::pci {

/// A capability found in a copy of configuration space.
struct FoundCapability {
  ConfigStructure structure;
  std::uint16_t at = 0;
  std::uint16_t next = 0;  ///< 0: the last one
};

struct ConfigWalk {
  std::vector<FoundCapability> found;  ///< in list order: first the standard list, then the extended one
  bool broken = false;  ///< a list loops or points outside its space, and was cut there
};

/// Follows both capability lists of a copy of configuration space. At most 48 and 960 steps. An extended header with id 0
/// is followed, but not listed.
ConfigWalk walk_capabilities(Bytes image);

}  // namespace outboard::pci
