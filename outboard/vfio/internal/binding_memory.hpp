#pragma once

#include <sys/stat.h>

#include <filesystem>
#include <optional>
#include <string>

#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>
#include <outboard/vfio/internal/sysfs.hpp>

/// What Binding remembers of functions: one small file for each, which root follows later. Any thread.
namespace outboard::vfio {

/// What was there before a function was handed over.
struct BindingMemory {
  std::string driver;         ///< empty: none
  std::string override_name;  ///< empty: none
};

/// Whether a driver's name can be a part of a path and a word of a shell: letters, digits, '_', '-' and '.', and none of the
/// last two first.
bool is_driver_name(const std::string& text);

/// Whether user `self` can trust a file or folder: only root and `self` can have written it.
bool is_trusted(const struct stat& facts, uid_t self);

/// What was remembered of the function; absent: nothing, or of another device that was in the same place, or by somebody
/// who must not say.
std::optional<BindingMemory> read_memory(const std::filesystem::path& folder, const FunctionFacts& facts);

/// Makes the folder where it is missing. EPERM: it (or the file) is somebody else's, or writable for everybody.
Status write_memory(const std::filesystem::path& folder, const FunctionFacts& facts, const BindingMemory& memory);

/// The file that those who bind and unbind lock, in the same folder. As write_memory() says.
Result<UniqueFd> open_lock(const std::filesystem::path& folder);

void drop_memory(const std::filesystem::path& folder, pci::Address address);

}  // namespace outboard::vfio
