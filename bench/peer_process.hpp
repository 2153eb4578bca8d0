#pragma once

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <utility>

#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace outboard::bench {

/// Where the two sides of a benchmark run. A wake-up across processors costs several times one on the same processor, so
/// a figure without its placement says nothing.
enum class Placement : int { same_cpu = 0, different_cpus = 1 };

inline void pin_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(cpu), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) std::perror("pinning to a processor");
}

/// The other side of a benchmark, in a process of its own; killed when the benchmark is done with it. This side runs on
/// processor 0.
class PeerProcess {
 public:
  PeerProcess(Placement placement, const std::function<void()>& body) {
    pin_to(0);
    child_ = fork();
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      pin_to(placement == Placement::same_cpu ? 0 : 1);
      body();
      _exit(0);
    }
    if (child_ < 0) {
      std::perror("fork");
      std::abort();
    }
  }
  ~PeerProcess() {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
  }
  PeerProcess(const PeerProcess&) = delete;
  PeerProcess& operator=(const PeerProcess&) = delete;

 private:
  pid_t child_ = -1;
};

}  // namespace outboard::bench
