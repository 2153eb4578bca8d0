// Replays files through a fuzz target in builds without libFuzzer: the empty input, then every file named by an argument
// or lying in a folder that is. A folder that does not exist counts as empty.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_of(const fs::path& path) {
  if (!fs::is_directory(path)) return fs::exists(path) ? std::vector{path} : std::vector<fs::path>{};
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

std::optional<std::vector<char>> contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  return std::vector<char>(std::istreambuf_iterator<char>(file), {});
}

void replay(const std::vector<char>& input) {
  // An exact allocation, so that a sanitizer sees a read past the end. Never null, as libFuzzer has it.
  std::vector<std::uint8_t> bytes(input.begin(), input.end());
  bytes.shrink_to_fit();
  static const std::uint8_t nothing = 0;
  LLVMFuzzerTestOneInput(bytes.empty() ? &nothing : bytes.data(), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t count = 1;
  replay({});
  for (int i = 1; i < argc; ++i) {
    for (const auto& path : files_of(argv[i])) {
      const auto input = contents(path);
      if (!input) {
        std::fprintf(stderr, "cannot read %s\n", path.c_str());
        return 1;
      }
      // Before it runs: if it ends the process, this line tells which.
      std::fprintf(stderr, "replay %s (%zu bytes)\n", path.c_str(), input->size());
      replay(*input);
      ++count;
    }
  }
  std::printf("%zu inputs replayed\n", count);
  return 0;
}
