#pragma once

#include <string>

namespace outboard::storage {

/// `path` as a shell takes it.
std::string quoted(const std::string& path);

}  // namespace outboard::storage
