#include <outboard/memory/fault_guard.hpp>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <mutex>

#include <outboard/base/internal/process_memory.hpp>
#include <outboard/memory/internal/fault_registry.hpp>

namespace outboard::memory {
namespace {

std::atomic<FaultRegistry*> registry{nullptr};  ///< set before the handler is, so that it makes nothing itself
struct sigaction previous{};                   ///< written before the handler is installed, then only read

/// Mappings that the handler can give up: putting memory over part of a mapping splits it, and the process may have
/// vm.max_map_count of them, not one more. Every second page of one range has a protection of its own, so it is a mapping,
/// and parts its neighbours. Without it, the three of them are one; the range itself is never unmapped.
class SpareMappings {
 public:
  static constexpr std::size_t count = 64;  ///< pages, of which each is worth two mappings

  /// Once, before the handler is installed.
  Status reserve() {
    page_ = page_size();
    void* const pages =
        ::mmap(nullptr, (2 * count + 1) * page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return Error::from_errno("keeping mappings for the fault guard");
    pages_ = static_cast<std::byte*>(pages);
    if (refill()) return {};
    const Error error = Error::from_errno("keeping mappings for the fault guard");
    ::munmap(pages, (2 * count + 1) * page_);
    return error;
  }
  std::size_t left() const { return left_.load(std::memory_order_relaxed); }

  /// False when there are no more than `keep` left. Async-signal-safe; threads may meet here.
  bool give_up_one(std::size_t keep) {
    for (std::size_t i = 0; i < count && left() > keep; ++i) {
      State held = State::held;
      if (!states_[i].compare_exchange_strong(held, State::changing, std::memory_order_acquire)) continue;
      left_.fetch_sub(1, std::memory_order_relaxed);
      const bool given = protect(i, PROT_NONE);
      states_[i].store(State::given_up, std::memory_order_release);
      if (given) return true;
    }
    return false;
  }

  /// Takes back what was given up. False, and errno, when the process has no room for it. Not in the handler, which may come
  /// in the middle of it.
  bool refill() {
    for (std::size_t i = 0; i < count && left() != count; ++i) {
      State given_up = State::given_up;
      if (!states_[i].compare_exchange_strong(given_up, State::changing, std::memory_order_acquire)) continue;
      const bool taken = protect(i, PROT_READ);
      if (taken) left_.fetch_add(1, std::memory_order_relaxed);
      states_[i].store(taken ? State::held : State::given_up, std::memory_order_release);
      if (!taken) return false;
    }
    return true;
  }

 private:
  /// Of one page; who has set `changing` is alone with it (row M17).
  enum class State : std::uint8_t { given_up, changing, held };

  bool protect(std::size_t i, int protection) const {
    return ::syscall(SYS_mprotect, pages_ + (2 * i + 1) * page_, page_, long{protection}) == 0;
  }

  std::byte* pages_ = nullptr;  ///< written before the handler is installed, then only read
  std::size_t page_ = 0;
  std::array<std::atomic<State>, count> states_{};
  std::atomic<std::size_t> left_{0};
};
SpareMappings spare_mappings;

/// The system call itself: the sanitizers' mmap() does more than a signal handler may.
bool put_over(std::byte* at, std::uint64_t length, int protection, int flags, int file) {
  // The kernel takes longs: of an int, half of the register or of the place on the stack may be anything.
  return ::syscall(SYS_mmap, at, length, long{protection}, long{MAP_FIXED | MAP_PRIVATE | flags}, long{file}, 0L) != -1;
}

bool put_over_with_spares(std::byte* at, std::uint64_t length, int protection, int flags, int file, std::size_t keep) {
  do {
    if (put_over(at, length, protection, flags, file)) return true;
  } while (errno == ENOMEM && spare_mappings.give_up_one(keep));
  return false;
}

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
  if (range.ones >= 0) {
    return put_over_with_spares(range.begin + skip, range.page_size, range.protection, 0, range.ones, 0);
  }
  // The last ones are kept for the way out: putting zeroes over all of it splits nothing, but the kernel refuses that too to
  // a process that is one beyond the limit, as each split would leave it. They are taken back when a mapping goes.
  constexpr int zeroes = MAP_ANONYMOUS | MAP_NORESERVE;
  constexpr std::size_t last_ones = 4;
  if (spare_mappings.left() > last_ones &&
      put_over_with_spares(range.begin + skip, range.length - skip, range.protection, zeroes, -1, last_ones)) {
    return true;
  }
  slot->poison(range.begin);
  return put_over_with_spares(range.begin, range.length, range.protection, zeroes, -1, 0);
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
  OUTBOARD_CHECK(spare_mappings.reserve());
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

bool fault_guard_has_its_spares() { return !installed.load(std::memory_order_acquire) || spare_mappings.refill(); }

bool fault_guard_installed() { return installed.load(std::memory_order_acquire); }

}  // namespace outboard::memory
