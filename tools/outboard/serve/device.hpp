#pragma once

#include <outboard/base/options.hpp>
#include <outboard/targets/device_table.hpp>
#include <tools/outboard/plan.hpp>
#include <tools/outboard/serve/place.hpp>

namespace outboard::command {

/// A device to serve. `entry` is set by the verb, the rest by the command line.
struct ServeArguments {
  const targets::DeviceEntry* entry = nullptr;
  OptionSet options{OptionSet::Syntax::command_line};
  ServePlace place;
};

/// Adds the options of the device and of its transports. `with_vduse`: those of vduse:NAME too.
void add_device_options(const Verb& verb, ServeArguments& arguments, bool with_vduse);

/// Serves the device until a signal ends it. `example`: the cure if no listener is given.
Result<Exit> serve_device(const ServeArguments& arguments, const std::string& example, Context& context);

}  // namespace outboard::command
