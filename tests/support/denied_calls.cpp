#include <tests/support/denied_calls.hpp>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <thread>

#include <gtest/gtest.h>

namespace outboard::testing {
namespace {

// Calls that came with Linux 5.1 or later have one number on every architecture; older headers lack the name.
constexpr std::array calls = std::to_array<RecentCall>({
    {"close_range", SYS_close_range},
    {"copy_file_range", SYS_copy_file_range},
    {"epoll_pwait2", SYS_epoll_pwait2},
    {"faccessat2", SYS_faccessat2},
    {"fchmodat2", 452},
    {"io_uring_enter", SYS_io_uring_enter},
    {"io_uring_register", SYS_io_uring_register},
    {"io_uring_setup", SYS_io_uring_setup},
    {"memfd_create", SYS_memfd_create},
    {"openat2", SYS_openat2},
    {"pidfd_getfd", SYS_pidfd_getfd},
    {"pidfd_open", SYS_pidfd_open},
    {"pidfd_send_signal", SYS_pidfd_send_signal},
    {"preadv2", SYS_preadv2},
    {"process_madvise", SYS_process_madvise},
    {"pwritev2", SYS_pwritev2},
    {"renameat2", SYS_renameat2},
    {"statx", SYS_statx},
});

constexpr std::size_t max_calls = 200;  // a jump of a filter is a byte

Status install(std::vector<sock_filter> filter) {
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Error::from_errno("giving up new privileges");
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    return Error::from_errno("installing a seccomp filter");
  return {};
}

}  // namespace

std::span<const RecentCall> recent_calls() { return calls; }

std::optional<long> recent_call(std::string_view name) {
  const auto found = std::ranges::find(calls, name, &RecentCall::name);
  return found != calls.end() ? std::optional(found->number) : std::nullopt;
}

Status deny_calls(std::span<const long> numbers, int error) {
  if (numbers.size() > max_calls) return Error(EINVAL, "too many system calls for one filter");
  std::vector<sock_filter> filter;
  filter.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto to_denial =
        static_cast<__u8>(numbers.size() - i);  // over the other comparisons and the return behind them
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<__u32>(numbers[i]), to_denial, 0));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (static_cast<__u32>(error) & SECCOMP_RET_DATA)));
  return install(std::move(filter));
}

Status deny_call(long call, unsigned argument, std::uint32_t value, int error) {
  // The lower half of the argument comes first: little-endian, as all that Outboard runs on.
  const auto at = static_cast<__u32>(offsetof(seccomp_data, args) + argument * sizeof(__u64));
  return install({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<__u32>(call), 0, 3),
                  BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
                  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (static_cast<__u32>(error) & SECCOMP_RET_DATA)),
                  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)});
}

void with_calls_denied(const std::vector<long>& numbers, int error, const std::function<void()>& body) {
  std::thread([&] {
    const auto denied = deny_calls(numbers, error);
    ASSERT_TRUE(denied.has_value()) << denied.error().what();
    body();
  }).join();
}

}  // namespace outboard::testing
