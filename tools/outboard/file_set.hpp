#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <outboard/base/result.hpp>

namespace outboard::command {

/// A file that is to be made.
struct NewFile {
  std::string path;  ///< below the set's root
  std::string text;  ///< one that begins with `#!` can be executed
};

/// Files that come into being together or not at all.
struct FileSet {
  std::filesystem::path root;   ///< made if it is not there; its parent has to be
  std::vector<std::string> units;  ///< files and folders below `root` that must not exist yet; each file is in one
  std::vector<NewFile> files;
};

/// EEXIST: what is there already. Other errors: what lies in the way.
Status check_free(const FileSet& set);

/// Makes the files; nothing that exists is overwritten. They are written into a folder of their own in `root`, then each
/// unit is moved to its place. With an error nothing has changed; what was made until then is removed.
Status create_files(const FileSet& set);

}  // namespace outboard::command
