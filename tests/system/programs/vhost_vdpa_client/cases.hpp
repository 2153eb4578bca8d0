#pragma once

#include <span>
#include <string>
#include <string_view>

#include <outboard/base/result.hpp>

namespace outboard::vhost {

/// What a case is run with.
struct Arguments {
  std::string node;  ///< /dev/vhost-vdpa-N
  bool packed = false;
  unsigned queues = 1;
  unsigned seconds = 5;
};

/// Something that a disk behind vhost-vdpa must do, or live through.
struct Case {
  std::string_view name;
  Status (*run)(const Arguments& arguments);
};

std::span<const Case> cases();

/// Those that need messages of VDUSE which Linux 7.3 has: SUSPEND and SET_VQ_READY.
std::span<const Case> pause_cases();

}  // namespace outboard::vhost
