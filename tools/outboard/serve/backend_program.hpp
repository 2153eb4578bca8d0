#pragma once

#include <optional>
#include <string_view>

#include <outboard/targets/device_table.hpp>
#include <tools/outboard/plan.hpp>

namespace outboard::command {

/// The command under the name by which management software finds and starts it: `outboard-vfio-user-blk`. Its options are
/// those of the back-end program conventions of the vfio-user specification.
struct BackendProgram {
  const targets::DeviceEntry* device = nullptr;
  std::string_view
      type;  ///< the device's type for management software, as the conventions of vhost-user name it: "block"
};

/// The back-end program that was started as `name` (argv[0]). Nothing: the command itself.
std::optional<BackendProgram> backend_program(std::string_view name);

/// The command line of such a program.
CommandLine describe_backend_program(Plan& plan, const BackendProgram& program);

}  // namespace outboard::command
