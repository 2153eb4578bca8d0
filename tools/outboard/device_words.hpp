#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include <outboard/base/options.hpp>

namespace outboard::command {

/// A word of a device or of a transport becomes an option of a verb, which leaves it in `words`. Both outlive the verb.
void add_word(CLI::App& verb, const OptionHelp& word, OptionSet& words, const std::string& group);

}  // namespace outboard::command
