#pragma once

#include <string>

#include <tools/outboard/config_image.hpp>
#include <tools/outboard/pci_names.hpp>

namespace outboard::command {

/// What `lspci -vvv` prints for a type 0 function with this configuration space, with an empty line behind it. The sizes
/// of regions are shown where the image has them, as lspci does for a function of this machine.
std::string lspci_text(const ConfigImage& image, const PciNames& names);

/// The first line of it.
std::string lspci_headline(const ConfigImage& image, const PciNames& names);

/// Rows of 16 bytes in hexadecimal, as `lspci -x` prints them; `length` bytes at most.
std::string lspci_hex(const ConfigImage& image, std::size_t length);

/// The capabilities, indented as in lspci_text.
std::string lspci_capabilities(const ConfigImage& image);

/// What a capability says, from behind its "Capabilities: [40] " on; lines end in newlines.
std::string lspci_express(const ConfigImage& image, std::size_t offset);

/// One flag of a register: its name and its bit.
struct LspciFlag {
  std::string_view name;
  unsigned bit;
};
/// "ExtTag+ RBE-".
std::string lspci_flags(std::uint32_t value, std::initializer_list<LspciFlag> flags);

}  // namespace outboard::command
