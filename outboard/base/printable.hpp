#pragma once

#include <string>
#include <string_view>

namespace outboard {

/// `text`, with everything that could steer a terminal or forge a line written as "\\xNN": control characters, line ends among
/// them, bytes that are no UTF-8, and characters of UTF-8 that are not seen or change the direction. For what comes from a peer
/// or from /proc (a process chooses its own name) and is shown to a person.
std::string printable(std::string_view text);

}  // namespace outboard
