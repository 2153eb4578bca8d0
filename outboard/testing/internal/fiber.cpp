#include <outboard/testing/internal/fiber.hpp>

#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define OUTBOARD_UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define OUTBOARD_UNDER_ASAN 1
#endif
#endif
#if defined(OUTBOARD_UNDER_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif

namespace outboard::testing {
namespace {

constexpr std::size_t stack_size = std::size_t{512} << 10;
constexpr std::size_t guard_size = std::size_t{4} << 10;

/// A simulation needs a handful of stacks, and there are thousands of simulations: stacks are used again.
class Stacks {
 public:
  ~Stacks() {
    for (std::byte* const one : free_) ::munmap(one, stack_size);
  }
  std::byte* take() {
    if (!free_.empty()) {
      std::byte* const last = free_.back();
      free_.pop_back();
      return last;
    }
    void* const made = ::mmap(nullptr, stack_size, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (made == MAP_FAILED || ::mprotect(made, guard_size, PROT_NONE) != 0) throw std::bad_alloc();
    return static_cast<std::byte*>(made);
  }
  void give_back(std::byte* stack) { free_.push_back(stack); }

 private:
  std::vector<std::byte*> free_;
};

Stacks& stacks() {
  thread_local Stacks those;
  return those;
}

}  // namespace

struct Fiber::State {
  std::move_only_function<void()> body;
  std::byte* stack = nullptr;
  ucontext_t inside{}, outside{};
  bool begun = false, over = false;
  // For AddressSanitizer, which has to know on which stack it is.
  void* fake_inside = nullptr;
  void* fake_outside = nullptr;
  const void* outside_bottom = nullptr;
  std::size_t outside_size = 0;

  void run();
  static void start(unsigned high, unsigned low);
};

void Fiber::State::start(unsigned high, unsigned low) {
  const auto address = (std::uintptr_t{high} << 32) | low;
  reinterpret_cast<State*>(address)->run();  // NOLINT(performance-no-int-to-ptr): makecontext() passes integers
}

void Fiber::State::run() {
#if defined(OUTBOARD_UNDER_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &outside_bottom, &outside_size);
#endif
  body();
  body = nullptr;
  over = true;
#if defined(OUTBOARD_UNDER_ASAN)
  __sanitizer_start_switch_fiber(nullptr, outside_bottom, outside_size);
#endif
  ::setcontext(&outside);
  std::abort();
}

Fiber::Fiber(std::move_only_function<void()> body) : state_(std::make_unique<State>()) {
  state_->body = std::move(body);
}

Fiber::~Fiber() {
  if (state_->begun && !state_->over) std::abort();  // what lives on its stack would be lost
  if (state_->stack != nullptr) stacks().give_back(state_->stack);
}

void Fiber::resume() {
  State& state = *state_;
  if (state.over) return;
  if (!std::exchange(state.begun, true)) {
    state.stack = stacks().take();
    ::getcontext(&state.inside);
    state.inside.uc_stack.ss_sp = state.stack + guard_size;
    state.inside.uc_stack.ss_size = stack_size - guard_size;
    const auto address = reinterpret_cast<std::uintptr_t>(&state);
    // makecontext() passes arguments of type int.
    ::makecontext(&state.inside, reinterpret_cast<void (*)()>(&State::start), 2, static_cast<unsigned>(address >> 32),
                  static_cast<unsigned>(address));
  }
#if defined(OUTBOARD_UNDER_ASAN)
  __sanitizer_start_switch_fiber(&state.fake_outside, state.stack + guard_size, stack_size - guard_size);
#endif
  ::swapcontext(&state.outside, &state.inside);
#if defined(OUTBOARD_UNDER_ASAN)
  __sanitizer_finish_switch_fiber(state.fake_outside, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
  State& state = *state_;
#if defined(OUTBOARD_UNDER_ASAN)
  __sanitizer_start_switch_fiber(&state.fake_inside, state.outside_bottom, state.outside_size);
#endif
  ::swapcontext(&state.inside, &state.outside);
#if defined(OUTBOARD_UNDER_ASAN)
  __sanitizer_finish_switch_fiber(state.fake_inside, &state.outside_bottom, &state.outside_size);
#endif
}

bool Fiber::ended() const { return state_->over; }

}  // namespace outboard::testing
