#pragma once

#include <string_view>

#include <outboard/base/result.hpp>

namespace outboard::command {

/// Prints `outboard: THING: WHAT` and, indented, the cure to stderr.
void print_error(const Error& error);

/// Writes all of `text` to stdout.
Status print(std::string_view text);
/// Whether print() failed because the reader of stdout has gone (EPIPE; not that of a socket).
bool nobody_reads(const Error& error);

}  // namespace outboard::command
