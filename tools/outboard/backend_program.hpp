#pragma once

#include <optional>
#include <string_view>

#include <tools/outboard/command.hpp>

#include <outboard/targets/device_table.hpp>

namespace outboard::command {

/// The command under another name, by which management software finds and starts it: `outboard-vfio-user-blk`. Its words are
/// those of the back-end program conventions of the vfio-user specification.
struct BackendProgram {
  const targets::DeviceEntry* device = nullptr;
  std::string_view
      type;  ///< the device's type for management software, as the conventions of vhost-user name it: "block"
};

/// Which of them a program that was started as `name` (argv[0]) is. Nothing: the command itself.
std::optional<BackendProgram> backend_program(std::string_view name);

/// The words of such a program.
void describe_backend_program(CLI::App& app, Plan& plan, const BackendProgram& program);

}  // namespace outboard::command
