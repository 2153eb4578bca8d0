#pragma once

#include <string>

namespace outboard {

/// `text` as one word for a shell, quoted if necessary.
std::string shell_word(const std::string& text);

/// The same for a file's path, written so that no program reads it as an option.
std::string shell_path(const std::string& path);

}  // namespace outboard
