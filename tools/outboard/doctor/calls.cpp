#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <fstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/base/internal/peers_eventfd.hpp>
#include <tools/outboard/doctor/doctor.hpp>

namespace outboard::command {

namespace {

using State = Finding::State;

/// A system call, with arguments that make it fail without effect, and not with ENOSYS or EPERM.
struct Call {
  const char* name;
  long number;
  std::array<long, 3> arguments;
};

constexpr std::array calls = std::to_array<Call>({
    {"epoll_pwait2", SYS_epoll_pwait2, {-1, 0, 0}},
    {"pidfd_open", SYS_pidfd_open, {0, 0, 0}},
    {"preadv2", SYS_preadv2, {-1, 0, 0}},
    {"statx", SYS_statx, {-1, 0, -1}},
    {"renameat2", SYS_renameat2, {-1, 0, -1}},
});

bool is_there(const Call& call) {
  errno = 0;
  ::syscall(call.number, call.arguments[0], call.arguments[1], call.arguments[2], 0L, 0L, 0L);
  return errno != ENOSYS && errno != EPERM;
}

}  // namespace

Finding system_calls() {
  Finding finding{"system calls", "newer and faster calls of the kernel", State::ok, "all available", {}};
  std::vector<std::string_view> absent;
  for (const Call& call : calls) {
    if (!is_there(call)) absent.emplace_back(call.name);
  }
  if (absent.empty()) return finding;
  finding.state = State::denied;
  finding.detail = fmt::format("without {}: older calls are used instead", fmt::join(absent, ", "));
  finding.cure = "a newer kernel; in a container a newer seccomp profile";
  return finding;
}

Finding client_signals() {
  Finding finding{
      "signals to clients", "interrupts without waiting for a client", State::ok, "by asynchronous I/O", {}};
  const auto made = AsyncSignal::create();
  if (made) return finding;
  finding.state = made.error().code() == EAGAIN ? State::low : State::denied;
  finding.detail = fmt::format("a hostile client can hold its server: {}", made.error().message());
  finding.cure = made.error().cure();
  return finding;
}

Finding mappings(const std::string& root) {
  static constexpr std::uint64_t comfortable = 65530;  // the kernel's own default
  Finding finding{"mappings", "memory windows of all clients of one server", State::ok, {}, {}};
  std::uint64_t max_mappings = 0;
  std::ifstream(root + "/proc/sys/vm/max_map_count") >> max_mappings;
  finding.detail = fmt::format("{} in one process", max_mappings);
  if (max_mappings >= comfortable) return finding;
  finding.state = max_mappings == 0 ? State::missing : State::low;
  finding.detail = max_mappings == 0 ? "vm.max_map_count cannot be read"
                                     : fmt::format("{} in one process ({} recommended)", max_mappings, comfortable);
  finding.cure = fmt::format("sysctl -w vm.max_map_count={}", comfortable);
  return finding;
}

}  // namespace outboard::command
