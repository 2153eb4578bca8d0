#pragma once

#include <tools/outboard/command.hpp>

namespace outboard::command {

// The verbs under `outboard blk`, one for each file.
void add_blk_info(CLI::App& blk, Plan& plan);
void add_blk_read(CLI::App& blk, Plan& plan);
void add_blk_write(CLI::App& blk, Plan& plan);
void add_blk_verify(CLI::App& blk, Plan& plan);
void add_blk_bench(CLI::App& blk, Plan& plan);

}  // namespace outboard::command
