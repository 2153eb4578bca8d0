#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <new>

#include <outboard/memory/fault_guard.hpp>
#include <tools/outboard/output.hpp>
#include <tools/outboard/serve/backend_program.hpp>
#include <tools/outboard/stderr_log.hpp>
#include <tools/outboard/stop_signal.hpp>
#include <tools/outboard/usage_error.hpp>
#include <tools/outboard/verbs.hpp>

namespace outboard::command {

namespace {

Result<Exit> act(const Plan& plan, StopSignal& stop) {
  OUTBOARD_CHECK(memory::install_fault_guard());
  Context context{stderr_log(plan), stop};
  return plan.action(context);
}

CommandLine describe(Plan& plan) {
  CommandLine line("outboard", "PCI and virtio devices, and their drivers, outside the kernel and outside the VMM");
  line.describe_help("print this help, or that of a verb");
  const Verb root = line.root();
  root.set_footer(
      "A TARGET names the function to drive:\n"
      "  vfio:0000:00:04.0          a PCI function of this machine, bound to vfio-pci\n"
      "  vfio-user:PATH             a function that a server exports on the UNIX socket PATH\n"
      "  local:blk,image=disk.raw   a device made in this process, with the options of `outboard serve blk`\n"
      "A LISTENER names the place to serve a device:\n"
      "  vfio-user:PATH             the UNIX socket PATH, for QEMU and other clients\n"
      "  vduse:NAME                 this kernel's vDPA bus: a disk becomes /dev/vdX\n"
      "`outboard VERB --help` explains a verb. Exit status: 0 success, 1 failure, 2 usage error.\n");
  add_serve(root, plan);
  add_show(root, plan);
  add_lspci(root, plan);
  add_explain_config(root, plan);
  add_blk(root, plan);
  add_example(root, plan);
  add_edu(root, plan);
  add_new(root, plan);
  add_reset(root, plan);
  add_migrate(root, plan);
  add_pci(root, plan);
  add_vduse(root, plan);
  add_doctor(root, plan);
  line.add_help_verb();
  return line;
}

int fail(const Error& error) {
  // Nobody reads stdout any more, so nobody needs a message.
  if (!nobody_reads(error)) print_error(error);
  return static_cast<int>(is_usage_error(error) ? Exit::usage : Exit::failed);
}

int run(const Plan& plan) {
  const auto stop = StopSignal::create();
  if (!stop) return fail(stop.error());
  const auto done = act(plan, **stop);
  if (done) return static_cast<int>(*done);
  // A signal ends the process even if nobody reads the message.
  (*stop)->bound_end({.start = StopSignal::Start::at_signal,
                      .timeout = std::chrono::seconds(1),
                      .verdict = [] { return StopSignal::Verdict::end; },
                      .say = [] {}});
  return fail(done.error());
}

/// A socket that took the number of a closed stdout would receive what is printed.
void keep_standard_descriptors() {
  int fd = 0;
  do {
    fd = open("/dev/null", O_RDWR);  // NOLINT(android-cloexec-open): they are meant to be inherited
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

/// To this user's hard limit: the usual soft limit of 1024 is for programs that call select().
void raise_descriptor_limit() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

int main(int argc, char** argv) {
  raise_descriptor_limit();
  keep_standard_descriptors();
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a write beyond RLIMIT_FSIZE is an error of that write
  Plan plan;
  const auto program = argc > 0 ? backend_program(argv[0]) : std::nullopt;
  CommandLine line = program ? describe_backend_program(plan, *program) : describe(plan);
  const auto asked = line.parse({argv + std::min(argc, 1), argv + argc});
  if (!asked) return fail(asked.error());
  if (*asked) {
    const auto printed = print(**asked);
    return printed ? 0 : fail(printed.error());
  }
  if (!plan.action) return fail(usage_error("no verb is given", "outboard --help lists the verbs"));
  try {
    return run(plan);
  } catch (const std::bad_alloc&) {
    std::fputs("outboard: out of memory\n  raise the limit: ulimit -v, ulimit -d, MemoryMax= of the service\n", stderr);
    return static_cast<int>(Exit::failed);
  }
}

}  // namespace

}  // namespace outboard::command

int main(int argc, char** argv) { return outboard::command::main(argc, argv); }
