// Which signals reach threads that the storage makes.

#include <outboard/storage/internal/signals_blocked.hpp>

#include <optional>
#include <thread>

#include <signal.h>

#include <gtest/gtest.h>

namespace outboard::storage {
namespace {

sigset_t blocked_here() {
  sigset_t blocked{};
  EXPECT_EQ(pthread_sigmask(SIG_SETMASK, nullptr, &blocked), 0);
  return blocked;
}

sigset_t blocked_in_a_new_thread() {
  sigset_t blocked{};
  std::thread([&blocked] { blocked = blocked_here(); }).join();
  return blocked;
}

TEST(SignalsOfTheProcess, StayAwayFromThreadsThatAreMadeMeanwhile) {
  std::optional<SignalsBlocked> blocked(std::in_place);
  const sigset_t inside = blocked_in_a_new_thread();
  blocked.reset();
  const sigset_t after = blocked_in_a_new_thread();
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGCHLD, SIGPIPE, SIGXFSZ}) {
    EXPECT_EQ(sigismember(&inside, signal), 1) << signal;
    EXPECT_EQ(sigismember(&after, signal), 0) << signal;
  }
}

TEST(SignalsOfTheProcess, ThatAreFaultsReachTheThreadThatMadeThem) {
  const SignalsBlocked blocked;
  const sigset_t inside = blocked_here();
  for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS})
    EXPECT_EQ(sigismember(&inside, fault), 0) << fault;
}

}  // namespace
}  // namespace outboard::storage
