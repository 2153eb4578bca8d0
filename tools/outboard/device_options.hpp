#pragma once

#include <string>

#include <outboard/base/options.hpp>
#include <tools/outboard/verb.hpp>

namespace outboard::command {

/// Adds an option of a device or of a transport to a verb. The command line sets it in `set`. Both outlive the verb.
void add_option_to(const Verb& verb, const OptionHelp& option, OptionSet& set, const std::string& group);

}  // namespace outboard::command
