#pragma once

#include <string>
#include <string_view>

namespace outboard {

/// `text` for display on a terminal: control characters, line ends, bytes that are not UTF-8, and characters that are invisible
/// or change the direction are written as "\\xNN". For text from a peer or from /proc (a process chooses its own name), which
/// could otherwise control the terminal or forge a line.
std::string printable(std::string_view text);

}  // namespace outboard
