#pragma once

#include <span>
#include <string_view>

namespace outboard::command {

/// A file of templates/device, as it was when the command was built.
struct Template {
  std::string_view path;  ///< below templates/device, without `.in`
  std::string_view text;
};

std::span<const Template> device_templates();

}  // namespace outboard::command
