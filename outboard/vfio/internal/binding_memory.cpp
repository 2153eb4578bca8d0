#include <outboard/vfio/internal/binding_memory.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <sstream>
#include <string_view>

#include <fmt/format.h>

#include <outboard/base/fd.hpp>

namespace outboard::vfio {
namespace {

namespace fs = std::filesystem;

/// Another device in the same slot must not be given the driver of the one before it.
std::string identity_of(const FunctionFacts& facts) {
  return fmt::format("{:04x}:{:04x}:{:04x}:{:04x}", facts.vendor, facts.device, facts.subsystem_vendor,
                     facts.subsystem);
}

Status check_trusted(int fd, const fs::path& path) {
  struct stat facts{};
  if (::fstat(fd, &facts) != 0) return Error::from_errno("looking whose it is").on(path.string());
  if (is_trusted(facts, ::geteuid())) return {};
  return Error(EPERM, "others than root can write it, and it says what root does later")
      .on(path.string())
      .cure(fmt::format("rm -r {}, or another folder: --state", path.string()));
}

/// No link is followed: neither to another folder, nor from the file to another file.
Result<UniqueFd> open_folder(const fs::path& folder) {
  UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return Error::from_errno("opening the folder").on(folder.string());
  OUTBOARD_CHECK(check_trusted(fd.get(), folder));
  return fd;
}

Result<UniqueFd> open_file(const fs::path& folder, const std::string& name, int flags, mode_t mode = 0644) {
  OUTBOARD_TRY(const UniqueFd inside, open_folder(folder));
  UniqueFd fd(::openat(inside.get(), name.c_str(), flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, mode));
  if (!fd) return Error::from_errno("opening what is remembered").on((folder / name).string());
  OUTBOARD_CHECK(check_trusted(fd.get(), folder / name));
  return fd;
}

/// Each folder with its mode: under a umask of 0 create_directories() would make one for everybody.
Status make_folders(const fs::path& folder) {
  static constexpr mode_t mode = 0755;
  fs::path made;
  for (const fs::path& part : folder) {
    made /= part;
    if (::mkdir(made.c_str(), mode) != 0 && errno != EEXIST)
      return Error::from_errno("making a folder").on(made.string());
  }
  return {};
}

}  // namespace

bool is_driver_name(const std::string& text) {
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  };
  return !text.empty() && text.front() != '-' && text.front() != '.' && std::ranges::all_of(text, is_plain);
}

bool is_trusted(const struct stat& facts, uid_t self) {
  const bool kind = S_ISREG(facts.st_mode) || S_ISDIR(facts.st_mode);
  return kind && (facts.st_uid == 0 || facts.st_uid == self) && (facts.st_mode & S_IWOTH) == 0;
}

/// Three lines, `driver NAME`, `override NAME` and `device IDENTITY`; the names may be missing.
std::optional<BindingMemory> read_memory(const fs::path& folder, const FunctionFacts& facts) {
  const auto file = open_file(folder, facts.address.text(), O_RDONLY);
  if (!file) return std::nullopt;
  std::array<char, 4096> text{};
  const ssize_t size = ::read(file->get(), text.data(), text.size());
  if (size < 0) return std::nullopt;
  BindingMemory memory;
  bool is_its_own = false;
  std::istringstream lines(std::string(text.data(), static_cast<std::size_t>(size)));
  for (std::string line; std::getline(lines, line);) {
    const std::size_t space = line.find(' ');
    const std::string word = line.substr(0, space), value = space == std::string::npos ? "" : line.substr(space + 1);
    if (word == "device") is_its_own = value == identity_of(facts);
    if (word != "driver" && word != "override") continue;
    if (!value.empty() && !is_driver_name(value)) return std::nullopt;
    (word == "driver" ? memory.driver : memory.override_name) = value;
  }
  return is_its_own ? std::optional(memory) : std::nullopt;
}

Status write_memory(const fs::path& folder, const FunctionFacts& facts, const BindingMemory& memory) {
  OUTBOARD_CHECK(make_folders(folder));
  const std::string name = facts.address.text();
  // Nothing is cut off before it is known whose it is.
  OUTBOARD_TRY(const UniqueFd file, open_file(folder, name, O_WRONLY | O_CREAT));
  const std::string text =
      fmt::format("driver {}\noverride {}\ndevice {}\n", memory.driver, memory.override_name, identity_of(facts));
  if (::ftruncate(file.get(), 0) != 0 ||
      ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return Error::from_errno("remembering the driver").on((folder / name).string());
  return {};
}

/// Nobody else may open it: whoever can, can keep the lock.
Result<UniqueFd> open_lock(const fs::path& folder) {
  OUTBOARD_CHECK(make_folders(folder));
  return open_file(folder, "lock", O_RDWR | O_CREAT, 0600);
}

void drop_memory(const fs::path& folder, pci::Address address) { ::unlink((folder / address.text()).c_str()); }

}  // namespace outboard::vfio
