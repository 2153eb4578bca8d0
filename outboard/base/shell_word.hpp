#pragma once

#include <string>

namespace outboard {

/// `text` as one word for a shell: in quotes where it needs them.
std::string shell_word(const std::string& text);

/// The same of a file's path, which no program takes for an option.
std::string shell_path(const std::string& path);

}  // namespace outboard
