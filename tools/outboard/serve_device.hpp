#pragma once

#include <outboard/base/options.hpp>
#include <outboard/targets/device_table.hpp>
#include <tools/outboard/command.hpp>
#include <tools/outboard/serve_place.hpp>

namespace outboard::command {

/// A device that is to be served: `entry` beforehand, the rest from the command line.
struct ServeArguments {
  const targets::DeviceEntry* entry = nullptr;
  OptionSet words{OptionSet::Syntax::command_line};
  ServePlace place;
};

/// The options for the device and for how it is run. How a device is run depends on what it is (a virtio device has rings)
/// and, `on_vduse`, on where it may be served.
void add_device_words(CLI::App& verb, ServeArguments& arguments, bool on_vduse);

/// Serves it until the signals say otherwise. `example`: for whoever has not said where.
Result<Exit> serve_device(const ServeArguments& arguments, const std::string& example, Context& context);

}  // namespace outboard::command
