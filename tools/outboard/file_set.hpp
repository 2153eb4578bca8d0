#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <outboard/base/result.hpp>

namespace outboard::command {

/// A file to create.
struct NewFile {
  std::string path;  ///< relative to the root of the set
  std::string text;  ///< a file that begins with `#!` becomes executable
};

/// Files that are created all together or not at all.
struct FileSet {
  std::filesystem::path root;   ///< created if it does not exist; its parent must exist
  std::vector<std::string> units;  ///< files and folders below `root` that must not exist; each file is in one of them
  std::vector<NewFile> files;
};

/// EEXIST: one of the units exists.
Status check_free(const FileSet& set);

/// Creates the files without overwriting anything: writes them into a temporary folder in `root`, then moves each unit to its
/// place. With an error nothing has changed.
Status create_files(const FileSet& set);

}  // namespace outboard::command
