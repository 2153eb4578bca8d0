#include <outboard/storage/quoted.hpp>

namespace outboard::storage {

std::string quoted(const std::string& path) {
  const bool plain =
      path.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%,") ==
      std::string::npos;
  if (plain && !path.empty() && path[0] != '-') return path;
  std::string text = path[0] == '-' ? "'./" : "'";
  for (const char c : path) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

}  // namespace outboard::storage
