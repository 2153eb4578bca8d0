#include <poll.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include <outboard/base/fd.hpp>
#include <outboard/memory/fault_guard.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/express_registers.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/targets/target.hpp>

/// A user of a PCI function, as simple as can be.
///
///   function_user register TARGET BAR OFFSET   prints a register of 32 bits, in hexadecimal
///   function_user vectors TARGET msi|msi-x N   prints how many of N vectors it is given
///   function_user hold TARGET                  opens it, maps memory and its first BAR, says `open`, and keeps all of it
///                                              until standard input ends
///   function_user error TARGET                 the same, but waits until the function has reported an error, which it lets
///                                              it do, and resets it
///   function_user unplug TARGET                the same, but waits until somebody wants the function back: lets it go in
///                                              order and says how long that took
///
/// Exit status 0: all was as it should be; else the error is on standard error.
namespace outboard {

namespace {

using Milliseconds = std::chrono::duration<double, std::milli>;

int fail(const Error& error) {
  fmt::print(stderr, "function_user: {}\n", error.message());
  if (!error.cure().empty()) fmt::print(stderr, "  {}\n", error.cure());
  return 1;
}

void say(std::string_view text) {
  fmt::print("{}\n", text);
  std::fflush(stdout);
}

std::optional<std::uint64_t> number(std::string_view text) {
  const bool hexadecimal = text.starts_with("0x");
  if (hexadecimal) text.remove_prefix(2);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, hexadecimal ? 16 : 10);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Result<std::uint32_t> read_register(const char* target, unsigned bar_index, std::uint64_t offset) {
  OUTBOARD_TRY(const auto handle, targets::open(target));
  OUTBOARD_CHECK(handle->enable_memory());
  OUTBOARD_TRY(const auto bar, handle->bar(bar_index));
  return bar.read<std::uint32_t>(offset);
}

Result<unsigned> count_vectors(const char* target, pci::InterruptKind kind, unsigned wanted) {
  OUTBOARD_TRY(const auto handle, targets::open(target));
  OUTBOARD_TRY(const auto vectors, handle->enable_interrupts_up_to(kind, wanted));
  return vectors.count();
}

/// What a driver has: memory that the device may reach, and a window into the BAR where there is one.
struct InUse {
  std::unique_ptr<pci::Handle> handle;
  memory::DmaBuffer buffer;
  pci::Window window;
};

Result<InUse> take(const char* target) {
  static constexpr std::size_t buffer_size = 65536, window_size = 4096;
  InUse in_use;
  OUTBOARD_TRY(in_use.handle, targets::open(target));
  OUTBOARD_CHECK(in_use.handle->enable_bus_master());
  OUTBOARD_TRY(in_use.buffer, in_use.handle->dma().allocate(buffer_size));
  if (auto window = in_use.handle->map_window(pci::region::bar0, 0, window_size)) in_use.window = *window;
  say("open");
  return in_use;
}

int hold(const char* target) {
  const auto in_use = take(target);
  if (!in_use) return fail(in_use.error());
  char byte = 0;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  return 0;
}

Status wait_for(pci::Event wanted, pci::Handle& handle) {
  bool told = false;
  handle.on_event([&told, wanted](pci::Event event) { told = told || event == wanted; });
  for (;;) {
    OUTBOARD_CHECK(handle.process());
    if (told) return {};
    pollfd waiting{handle.fd(), POLLIN, 0};
    if (::poll(&waiting, 1, -1) < 0 && errno != EINTR) return Error::from_errno("waiting for an event");
  }
}

/// PCI Express, Device Control: correctable, non-fatal, fatal errors and unsupported requests are reported.
Status report_errors(pci::Handle& handle) {
  static constexpr std::uint16_t all_of_them = 0xF;
  OUTBOARD_TRY(const auto capability, handle.find_capability(pci::capability_id::express));
  if (!capability) return Error(ENOTSUP, "the function is not on PCI Express");
  const auto at = capability->offset + pci::DeviceControl::in_capability;
  OUTBOARD_TRY(const auto control, handle.config().read_at<pci::DeviceControl>(at));
  return handle.config().write_at(at, pci::DeviceControl(static_cast<std::uint16_t>(control.value() | all_of_them)));
}

int error(const char* target) {
  auto in_use = take(target);
  if (!in_use) return fail(in_use.error());
  pci::Handle& handle = *in_use->handle;
  if (const auto done = report_errors(handle); !done) return fail(done.error());
  say("ready");
  if (const auto done = wait_for(pci::Event::error, handle); !done) return fail(done.error());
  if (const auto done = handle.reset(); !done) return fail(done.error());
  if (const auto known = handle.identity(); !known) return fail(known.error());
  say("an error was reported, and the function was reset");
  return 0;
}

int unplug(const char* target) {
  auto in_use = take(target);
  if (!in_use) return fail(in_use.error());
  pci::Handle& handle = *in_use->handle;
  if (const auto done = wait_for(pci::Event::unplug_requested, handle); !done) return fail(done.error());
  const auto began = std::chrono::steady_clock::now();
  handle.revoke();
  const double took = Milliseconds(std::chrono::steady_clock::now() - began).count();
  // A window that is kept by somebody reads as all-ones from now on.
  if (in_use->window && in_use->window.read<std::uint32_t>(0) != UINT32_MAX)
    return fail(Error(EIO, "a register is still there after the revoke"));
  if (const auto after = handle.identity(); after || after.error().code() != ENODEV)
    return fail(Error(EIO, "a call after the revoke does not say that there is no device"));
  say(fmt::format("released {:.1f} ms after it was asked for", took));
  return 0;
}

int run(int argc, char** argv) {
  const std::string_view verb = argc > 1 ? argv[1] : "";
  if (!memory::install_fault_guard()) return 2;
  if (verb == "hold" && argc == 3) return hold(argv[2]);
  if (verb == "error" && argc == 3) return error(argv[2]);
  if (verb == "unplug" && argc == 3) return unplug(argv[2]);
  if (verb == "vectors" && argc == 5) {
    const auto wanted = number(argv[4]);
    if (!wanted) return 2;
    const bool msix = std::string_view(argv[3]) == "msi-x";
    const auto count = count_vectors(argv[2], msix ? pci::InterruptKind::msix : pci::InterruptKind::msi,
                                     static_cast<unsigned>(*wanted));
    if (!count) return fail(count.error());
    say(fmt::format("{}", *count));
    return 0;
  }
  if (verb == "register" && argc == 5) {
    const auto bar = number(argv[3]), offset = number(argv[4]);
    if (!bar || !offset || *bar > pci::region::bar5) return 2;
    const auto value = read_register(argv[2], static_cast<unsigned>(*bar), *offset);
    if (!value) return fail(value.error());
    say(fmt::format("{:08x}", *value));
    return 0;
  }
  fmt::print(stderr, "usage: function_user register|vectors|hold|error|unplug TARGET [BAR OFFSET|KIND N]\n");
  return 2;
}

}  // namespace
}  // namespace outboard

int main(int argc, char** argv) { return outboard::run(argc, argv); }
