#pragma once

#include <tools/outboard/plan.hpp>

namespace outboard::command {

// The verbs under `outboard blk`, one for each file.
void add_blk_info(const Verb& parent, Plan& plan);
void add_blk_read(const Verb& parent, Plan& plan);
void add_blk_write(const Verb& parent, Plan& plan);
void add_blk_verify(const Verb& parent, Plan& plan);
void add_blk_bench(const Verb& parent, Plan& plan);

}  // namespace outboard::command
