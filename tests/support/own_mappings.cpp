#include <tests/support/own_mappings.hpp>

#include <cinttypes>
#include <cstdio>
#include <fstream>

namespace outboard::testing {

std::vector<OwnMapping> own_mappings() {
  std::vector<OwnMapping> all;
  std::ifstream file("/proc/self/maps");
  for (std::string line; std::getline(file, line);) {
    OwnMapping one;
    char rights[5] = {};
    int name_at = 0;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s %*x %*x:%*x %" SCNu64 " %n", &one.start, &one.end,
                    rights, &one.inode, &name_at) < 4) {
      continue;
    }
    one.writable = rights[1] == 'w';
    one.shared = rights[3] == 's';
    if (name_at > 0 && one.inode != 0) one.file = line.substr(static_cast<std::size_t>(name_at));
    all.push_back(std::move(one));
  }
  return all;
}

bool can_be_pinned(std::uint64_t at, std::uint64_t size, bool for_writing) {
  const std::uint64_t end = at + size;
  for (const OwnMapping& one : own_mappings()) {
    if (one.start > at || one.end <= at) continue;
    const bool memory_file = one.file.starts_with("/memfd:") || one.file.starts_with("/dev/shm/");
    if (for_writing && (!one.writable || (one.shared && !one.file.empty() && !memory_file))) return false;
    if (one.end >= end) return true;
    at = one.end;
  }
  return false;
}

}  // namespace outboard::testing
