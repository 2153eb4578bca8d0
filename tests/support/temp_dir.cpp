#include <tests/support/temp_dir.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace outboard::testing {
namespace {

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::abort();
}

UniqueFd sized(UniqueFd fd, std::uint64_t size) {
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) < 0) give_up("making a file for a test");
  return fd;
}

}  // namespace

TempDir::TempDir() {
  const char* base = std::getenv("TMPDIR");
  path_ = std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/outboard-test-XXXXXX";
  if (::mkdtemp(path_.data()) == nullptr) give_up("making a directory for a test");
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

UniqueFd TempDir::make_file(std::string_view name, std::uint64_t size) const {
  return sized(UniqueFd(::open(path(name).c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)), size);
}

UniqueFd make_memfd(std::uint64_t size) {
  return sized(UniqueFd(::memfd_create("outboard-test", MFD_CLOEXEC | MFD_ALLOW_SEALING)), size);
}

UniqueFd make_sealed_memfd(std::uint64_t size) {
  UniqueFd fd = make_memfd(size);
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) give_up("sealing a memory file for a test");
  return fd;
}

}  // namespace outboard::testing
