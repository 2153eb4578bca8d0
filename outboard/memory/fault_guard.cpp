#include <outboard/memory/fault_guard.hpp>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <mutex>

#include <outboard/memory/fault_registry.hpp>

namespace outboard::memory {
namespace {

std::atomic<FaultRegistry*> registry{nullptr};  ///< set before the handler is, so that it makes nothing itself
struct sigaction previous{};                   ///< written before the handler is installed, then only read

/// Puts zeroed memory where the file's pages are gone: from the page that was hit to the end of the mapping, because a
/// file is truncated from its end. Registers that are gone read as all-ones, by the page. Async-signal-safe.
bool repair(std::uintptr_t address) {
  GuardedRange range;
  FaultSlot* slot = registry.load(std::memory_order_acquire)->find(address, range);  // row M8
  if (slot == nullptr) return false;
  const auto begin = reinterpret_cast<std::uintptr_t>(range.begin);
  const std::uint64_t skip = (address - begin) / range.page_size * range.page_size;
  // First the mark, then the zeroes: whoever reads them finds the mark when it looks after its copy.
  slot->poison(range.begin + skip);
  // The system call itself: the sanitizers' mmap() does more than a signal handler may.
  if (range.ones >= 0) {
    return ::syscall(SYS_mmap, range.begin + skip, range.page_size, range.protection, MAP_FIXED | MAP_PRIVATE,
                     range.ones, 0) != -1;
  }
  return ::syscall(SYS_mmap, range.begin + skip, range.length - skip, range.protection,
                   MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != -1;
}

/// What would have happened without us.
void pass_on(int signal, siginfo_t* info, void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0) return previous.sa_sigaction(signal, info, context);
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) return previous.sa_handler(signal);
  const bool sent = info->si_code <= 0;  // by kill() and the like, not by the processor
  if (sent && previous.sa_handler == SIG_IGN) return;
  struct sigaction standard{};
  standard.sa_handler = SIG_DFL;
  ::sigaction(signal, &standard, nullptr);
  // A fault happens again when this returns, and ends the process with the core file that it should have.
  if (sent) ::raise(signal);
}

void on_sigbus(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  // BUS_ADRERR: no page behind the address. Anything else (a memory error of the machine, say) is not ours to hide.
  const bool ours = info->si_code == BUS_ADRERR && repair(reinterpret_cast<std::uintptr_t>(info->si_addr));
  if (!ours) pass_on(signal, info, context);
  errno = saved;
}

std::atomic<bool> installed{false};

}  // namespace

Status install_fault_guard() {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (installed.load(std::memory_order_relaxed)) return {};
  registry.store(&FaultRegistry::instance(), std::memory_order_release);  // row M7
  if (::sigaction(SIGBUS, nullptr, &previous) < 0) return Error::from_errno("reading the SIGBUS handler");
  struct sigaction action{};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (::sigaction(SIGBUS, &action, nullptr) < 0) return Error::from_errno("installing the SIGBUS handler");
  installed.store(true, std::memory_order_release);
  return {};
}

bool fault_guard_installed() { return installed.load(std::memory_order_acquire); }

}  // namespace outboard::memory
