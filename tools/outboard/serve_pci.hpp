#pragma once

#include <CLI/CLI.hpp>

#include <tools/outboard/command.hpp>

namespace outboard::command {

/// `serve pci`: re-exports a function that this process drives.
void add_serve_pci(CLI::App& serve_verb, Plan& plan);

}  // namespace outboard::command
