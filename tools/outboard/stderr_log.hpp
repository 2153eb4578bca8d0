#pragma once

#include <outboard/base/log.hpp>
#include <tools/outboard/plan.hpp>

namespace outboard::command {

/// The library's log on stderr, with time and level, at the level of -v, -vv and the verb's DefaultLog. It never waits for
/// the reader of stderr. Implemented with spdlog, which only stderr_log.cpp includes.
Log stderr_log(const Plan& plan);

}  // namespace outboard::command
