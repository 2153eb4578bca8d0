#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>

#include <fmt/format.h>

#include <outboard/base/fd.hpp>
#include <outboard/storage/internal/uring_engine.hpp>
#include <tools/outboard/doctor/doctor.hpp>
#include <tools/outboard/text.hpp>

namespace outboard::command {

namespace {

using State = Finding::State;

Finding io_uring() {
  Finding finding{"io_uring", "disk images without a system call for each request", State::ok, "works", {}};
  const auto usable = storage::probe_io_uring();
  if (usable) return finding;
  const int code = usable.error().code();
  finding.detail = fmt::format("{}; a pool of threads is used instead", std::strerror(code));
  finding.state = code == ENOSYS ? State::missing : State::denied;
  finding.cure = code == ENOSYS
                     ? "a kernel with CONFIG_IO_URING"
                     : "sysctl -w kernel.io_uring_disabled=0; in a container: --security-opt seccomp=unconfined";
  return finding;
}

Finding shared_memory() {
  Finding finding{
      "shared memory", "memory that a device in another process can reach", State::ok, "memory files with seals", {}};
  const UniqueFd fd(static_cast<int>(memfd_create("outboard-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING)));
  if (fd && ftruncate(fd.get(), 4096) == 0 && fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK) == 0) return finding;
  finding.state = State::missing;
  finding.detail = fmt::format("memory files: {}", std::strerror(errno));
  finding.cure = "a kernel with CONFIG_MEMFD_CREATE";
  return finding;
}

/// A number of /proc/meminfo.
std::uint64_t memory_figure(const std::string& root, const std::string& name) {
  std::ifstream file(root + "/proc/meminfo");
  std::string word;
  std::uint64_t value = 0;
  while (file >> word) {
    if (word == name + ":" && file >> value) return value;
  }
  return 0;
}

Finding hugepages(const std::string& root) {
  Finding finding{"hugepages", "fewer translations for large guests and buffers", State::ok, {}, {}};
  const auto total = memory_figure(root, "HugePages_Total"), free = memory_figure(root, "HugePages_Free");
  finding.detail =
      fmt::format("{} of {} free, {} each", free, total, size_text(memory_figure(root, "Hugepagesize") * 1024));
  if (total > 0) return finding;
  finding.state = State::missing;
  finding.detail = "none reserved";
  finding.cure = "sysctl -w vm.nr_hugepages=512";
  return finding;
}

Finding limit(std::string name, std::string use, decltype(RLIMIT_NOFILE) resource, std::uint64_t wanted, bool bytes,
              std::string cure) {
  rlimit values{};
  getrlimit(resource, &values);
  const auto text = [&](rlim_t value) {
    return value == RLIM_INFINITY ? std::string("unlimited") : bytes ? size_text(value) : std::to_string(value);
  };
  Finding finding{std::move(name), std::move(use), State::ok, text(values.rlim_cur), {}};
  if (values.rlim_cur >= wanted) return finding;
  finding.state = State::low;
  finding.detail =
      fmt::format("{} (limit {}; {} recommended)", text(values.rlim_cur), text(values.rlim_max), text(wanted));
  finding.cure = std::move(cure);
  return finding;
}

}  // namespace

namespace {

/// How a module is spelt in modules.dep: `-` and `_` mean the same to modprobe.
std::string with_underscores(std::string name) {
  std::ranges::replace(name, '-', '_');
  return name;
}

/// Whether a line of modules.dep or modules.builtin ("kernel/drivers/vdpa/vdpa_user/vduse.ko.xz: ...") is about a module.
bool is_about_module(std::string_view line, const std::string& name) {
  const std::string_view path = line.substr(0, line.find(':'));
  const std::string_view file = path.substr(path.rfind('/') + 1);
  return with_underscores(std::string(file.substr(0, file.find(".ko")))) == with_underscores(name);
}

}  // namespace

std::string load_module(const std::string& root, const std::string& name, const std::string& option) {
  utsname kernel{};
  ::uname(&kernel);
  const std::string folder = fmt::format("/lib/modules/{}", kernel.release);
  if (::access((root + folder).c_str(), F_OK) != 0)
    return fmt::format("modprobe {} on the host (in a container there is no {}); a kernel without it needs {}", name,
                       folder, option);
  for (const char* list : {"modules.dep", "modules.builtin"}) {
    std::ifstream modules(fmt::format("{}{}/{}", root, folder, list));
    for (std::string line; std::getline(modules, line);)
      if (is_about_module(line, name)) return fmt::format("modprobe {}", name);
  }
  return fmt::format("a kernel with {}: {} has no module {}", option, kernel.release, name);
}

Finding module(const std::string& root, const char* name, const char* option, const char* adds, std::string use) {
  if (::access((root + adds).c_str(), F_OK) == 0) return {name, std::move(use), State::ok, "loaded", {}};
  return {name, std::move(use), State::missing, fmt::format("not loaded: there is no {}", adds),
          load_module(root, name, option)};
}

std::string gain_right(std::string_view as_user, std::string_view in_container) {
  return std::string(::geteuid() == 0 ? in_container : as_user);
}

Finding device_node(const std::string& root, std::string name, std::string use, const char* path, std::string cure) {
  const std::string full = root + path;
  const UniqueFd fd(open(full.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (fd) return {std::move(name), std::move(use), State::ok, path, {}};
  if (errno == EACCES || errno == EPERM)
    return {std::move(name), std::move(use), State::denied, fmt::format("no permission to open {}", path),
            gain_right(fmt::format("run as root, or give this user the right to it: ls -l {}", path),
                       fmt::format("this container does not let root open it: start it with --device {}", path))};
  if (errno == EBUSY) return {std::move(name), std::move(use), State::ok, fmt::format("{} (in use)", path), {}};
  return {std::move(name), std::move(use), State::missing, fmt::format("there is no {}", path), std::move(cure)};
}

const char* name_of(Finding::State state) {
  switch (state) {
    case State::ok:
      return "ok";
    case State::missing:
      return "missing";
    case State::denied:
      return "denied";
    case State::low:
      return "low";
  }
  return "";
}

std::vector<Finding> examine(const std::string& root, const std::shared_ptr<vduse::Netlink>& netlink) {
  static constexpr std::uint64_t comfortable_files = 1024, comfortable_locked = UINT64_C(64) << 20;
  std::vector<Finding> findings{
      shared_memory(),
      io_uring(),
      system_calls(),
      client_signals(),
      device_node(root, "KVM", "guests at full speed", "/dev/kvm",
                  "turn virtualisation on in the firmware, then: modprobe kvm_intel (or kvm_amd)"),
      hugepages(root),
      limit("locked memory", "DMA buffers of real devices", RLIMIT_MEMLOCK, comfortable_locked, true,
            "ulimit -l unlimited; for good: a memlock line in /etc/security/limits.conf"),
      limit("open files", "one for each queue, vector and memory region", RLIMIT_NOFILE, comfortable_files, false,
            "ulimit -n 65536"),
      mappings(root),
  };
  std::ranges::move(examine_vfio(root), std::back_inserter(findings));
  std::ranges::move(examine_vduse(root, *netlink), std::back_inserter(findings));
  return findings;
}

}  // namespace outboard::command
