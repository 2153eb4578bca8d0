#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>

#include <outboard/pci/register.hpp>
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

struct LspciFlag {
  const char* name;
  bool set;
};
std::string lspci_flags(std::span<const LspciFlag> flags);

/// These flags of a register: "ExtTag+ RBE-".
template <std::unsigned_integral T, unsigned... bits>
std::string lspci_flags(pci::Register<T> from, pci::Flag<bits>... flags) {
  const LspciFlag list[] = {{flags.name, from.get(flags) != 0}...};
  return lspci_flags(list);
}

}  // namespace outboard::command
