#include <outboard/vduse/internal/bus_files.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include <outboard/base/internal/attribute_file.hpp>

namespace outboard::vduse {
namespace {

constexpr mode_t folder_mode = 0755;
constexpr mode_t file_mode = 0644;

std::string autoprobe_path(const std::string& bus) { return bus + "/drivers_autoprobe"; }

Result<UniqueFd> take_lock(const std::string& run, const Log& log) {
  if (::mkdir(run.c_str(), folder_mode) != 0 && errno != EEXIST) return Error::from_errno("creating it").on(run);
  const std::string path = run + "/vdpa.lock";
  UniqueFd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, file_mode));
  if (!lock) return Error::from_errno("opening it").on(path);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
  log.info("another process attaches a device; waiting for {}", path);
  while (::flock(lock.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return Error::from_errno("locking it").on(path);
  }
  return lock;
}

Status write_mark(const std::string& path) {
  const UniqueFd mark(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, file_mode));
  if (!mark) return Error::from_errno("creating it").on(path);
  return {};
}

}  // namespace

std::string read_attribute(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

bool QuietBus::possible(const std::string& bus) {
  return ::faccessat(AT_FDCWD, autoprobe_path(bus).c_str(), W_OK, AT_EACCESS) == 0;
}

Result<QuietBus> QuietBus::begin(const std::string& bus, const std::string& run, const Log& log) {
  OUTBOARD_TRY(auto lock, take_lock(run, log));
  QuietBus quiet(std::move(lock), autoprobe_path(bus), run + "/vdpa-autoprobe-off");
  if (::access(quiet.mark_.c_str(), F_OK) == 0) {
    log.warning("a process that attached a device died and left the autoprobe of the vDPA bus off; it is on again");
    quiet.changed_ = true;
    OUTBOARD_CHECK(quiet.restore());
  }
  // Off already, by the will of the administrator: so it stays.
  if (read_attribute(quiet.autoprobe_) == "0") return quiet;
  OUTBOARD_CHECK(write_mark(quiet.mark_));  // before the switch: a crash in between is repaired to no effect
  quiet.changed_ = true;
  OUTBOARD_CHECK(write_attribute(quiet.autoprobe_, "0"));
  return quiet;
}

QuietBus::~QuietBus() {
  // What is left off is in the mark, for the next one.
  if (lock_) [[maybe_unused]]
    const auto restored = restore();
}

Status QuietBus::restore() {
  if (!changed_) return {};
  OUTBOARD_CHECK(write_attribute(autoprobe_, "1"));
  changed_ = false;
  ::unlink(mark_.c_str());
  return {};
}

}  // namespace outboard::vduse
