#pragma once

#include <outboard/base/options.hpp>
#include <tools/outboard/serve/place.hpp>
#include <tools/outboard/target_arguments.hpp>

namespace outboard::command {

/// A function to export again, from the command line.
struct PciArguments {
  TargetArguments device;
  OptionSet options{OptionSet::Syntax::command_line};
  ServePlace place;
};

/// Serves the function until a signal ends it.
Result<Exit> serve_pci(const PciArguments& arguments, Context& context);

/// `serve pci`: re-exports a function that this process drives.
void add_serve_pci(const Verb& parent, Plan& plan);

}  // namespace outboard::command
