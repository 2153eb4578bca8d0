#include <tests/support/written_pages.hpp>

#include <signal.h>
#include <sys/mman.h>

#include <array>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/base/internal/process_memory.hpp>

namespace outboard::testing {
namespace {

/// What the handler reads. The memory of one test.
struct Watched {
  std::byte* begin = nullptr;
  std::size_t size = 0;
  std::vector<char> written;  ///< one a page; its size does not change while it is watched
};

std::array<Watched, 64> table;
struct sigaction before;

void on_fault(int number, siginfo_t* info, void* context) {
  auto* const at = static_cast<std::byte*>(info->si_addr);
  const std::size_t page = page_size();
  for (Watched& each : table) {
    if (each.begin == nullptr || at < each.begin || at >= each.begin + each.size) continue;
    const auto index = static_cast<std::size_t>(at - each.begin) / page;
    each.written[index] = 1;
    ::mprotect(each.begin + index * page, page, PROT_READ | PROT_WRITE);
    return;
  }
  // Another fault: as if this handler were not there.
  if ((before.sa_flags & SA_SIGINFO) != 0) return before.sa_sigaction(number, info, context);
  ::sigaction(number, &before, nullptr);
}

}  // namespace

WrittenPages::WrittenPages() {
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGSEGV, &action, &before);
}

WrittenPages::~WrittenPages() {
  for (Watched& each : table) {
    if (each.begin != nullptr) ::mprotect(each.begin, each.size, PROT_READ | PROT_WRITE);
    each = {};
  }
  ::sigaction(SIGSEGV, &before, nullptr);
}

void WrittenPages::watch(MutableBytes memory) {
  for (Watched& each : table) {
    if (each.begin != nullptr) continue;
    each.written.assign(memory.size() / page_size() + 1, 0);
    each.size = memory.size();
    each.begin = memory.data();
    EXPECT_EQ(::mprotect(memory.data(), memory.size(), PROT_READ), 0);
    return;
  }
  ADD_FAILURE() << "more mappings than WrittenPages can watch";
}

void WrittenPages::forget(const MutableBytes& memory) {
  for (Watched& each : table) {
    if (each.begin != memory.data()) continue;
    ::mprotect(each.begin, each.size, PROT_READ | PROT_WRITE);
    each = {};
  }
}

bool WrittenPages::written(const std::byte* page) {
  for (const Watched& each : table) {
    if (each.begin == nullptr || page < each.begin || page >= each.begin + each.size) continue;
    return each.written[static_cast<std::size_t>(page - each.begin) / page_size()] != 0;
  }
  return false;
}

}  // namespace outboard::testing
