#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include <outboard/memory/fault_guard.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/vfio/handle.hpp>

/// What <outboard/vfio/handle.hpp> promises, on a real kernel: vfio_contract CASE ADDRESS [group|cdev]. Exit status 0: it is so.
namespace outboard {
namespace {

using pci::InterruptKind;
using vfio::Handle;

struct Given {
  pci::Address address;
  vfio::Interface interface = vfio::Interface::automatic;

  Result<std::unique_ptr<Handle>> open(bool huge_pages = false) const {
    Handle::Options options;
    options.interface.interface = interface;
    options.huge_pages = huge_pages;
    return Handle::open(address, options);
  }
};

/// `what` as an error, unless `is`.
Status expect(bool is, std::string_view what) { return is ? Status() : Status(Error(EBADMSG, std::string(what))); }

template <typename T>
Status expect_error(const T& result, int code, std::string_view what) {
  return expect(!result && result.error().code() == code,
                fmt::format("{}: {}", what, result ? "it succeeded" : result.error().message()));
}

bool signalled(const EventFd& eventfd, int milliseconds = 5000) {
  pollfd state{.fd = eventfd.get(), .events = POLLIN, .revents = 0};
  return ::poll(&state, 1, milliseconds) == 1 && eventfd.drain() != 0;
}

std::vector<EventFd> eventfds(std::size_t count) {
  std::vector<EventFd> all;
  while (all.size() < count) all.push_back(EventFd::create().value());
  return all;
}

// NVMe: BAR 0 has its version at 8; nothing else reads so.
constexpr std::uint64_t nvme_version = 8;

Status windows(const Given& given) {
  OUTBOARD_TRY(auto handle, given.open());
  OUTBOARD_TRY(const auto bar, handle->bar(0));
  OUTBOARD_TRY(const auto window, bar.window(0, 4096));
  OUTBOARD_TRY(const auto version, bar.read<std::uint32_t>(nvme_version));
  OUTBOARD_CHECK(expect(version != 0 && version != UINT32_MAX, "a version by call"));
  OUTBOARD_CHECK(expect(window.read<std::uint32_t>(nvme_version) == version, "the same through a window"));
  OUTBOARD_TRY(const auto command, handle->config().read<pci::Command>());
  OUTBOARD_CHECK(handle->config().write(with(command, pci::Command::memory_space, 0)));
  OUTBOARD_CHECK(expect(window.read<std::uint32_t>(nvme_version) == UINT32_MAX, "ones while memory is not decoded"));
  OUTBOARD_CHECK(expect_error(bar.read<std::uint32_t>(nvme_version), EIO, "a call while memory is not decoded"));
  OUTBOARD_CHECK(handle->enable_memory());
  return expect(window.read<std::uint32_t>(nvme_version) == version, "the device again");
}

/// Behind the handle's back: what the fault guard is for.
Status guard(const Given& given) {
  OUTBOARD_CHECK(memory::install_fault_guard());
  OUTBOARD_TRY(auto handle, given.open());
  OUTBOARD_TRY(const auto bar, handle->bar(0));
  OUTBOARD_TRY(const auto window, bar.window(0, 4096));
  const std::uint32_t version = window.read<std::uint32_t>(nvme_version);
  OUTBOARD_TRY(const auto info, handle->region(0));
  OUTBOARD_TRY(const auto config, handle->region(pci::region::config));
  OUTBOARD_TRY(const auto command, handle->config().read<pci::Command>());
  const le16 off = with(command, pci::Command::memory_space, 0).value();
  const auto at = static_cast<off_t>(config.fd_offset + raw(pci::Command::offset));
  OUTBOARD_CHECK(expect(::pwrite(info.fd->get(), &off, sizeof off, at) == sizeof off, "writing Command by hand"));
  OUTBOARD_CHECK(expect(window.read<std::uint32_t>(nvme_version) == UINT32_MAX, "ones, and no signal"));
  OUTBOARD_CHECK(handle->enable_memory());
  OUTBOARD_CHECK(handle->reset());
  return expect(window.read<std::uint32_t>(nvme_version) == version, "the device again");
}

Status sleep_and_wake(const Given& given) {
  OUTBOARD_TRY(auto handle, given.open());
  OUTBOARD_CHECK(handle->enable_bus_master());
  OUTBOARD_TRY(const auto bar, handle->bar(0));
  OUTBOARD_TRY(const auto window, bar.window(0, 4096));
  const std::uint32_t version = window.read<std::uint32_t>(nvme_version);
  OUTBOARD_CHECK(handle->enter_low_power());
  OUTBOARD_CHECK(expect(window.read<std::uint32_t>(nvme_version) == UINT32_MAX, "ones while it sleeps"));
  OUTBOARD_CHECK(expect_error(handle->enter_low_power(), EALREADY, "sleeping twice"));
  OUTBOARD_CHECK(handle->exit_low_power());
  OUTBOARD_CHECK(expect(window.read<std::uint32_t>(nvme_version) == version, "the device again"));
  OUTBOARD_TRY(const auto command, handle->config().read<pci::Command>());
  return expect(command.get(pci::Command::bus_master) == 1, "bus mastering is kept");
}

Status reset(const Given& given) {
  OUTBOARD_TRY(auto handle, given.open());
  OUTBOARD_CHECK(handle->enable_bus_master());
  OUTBOARD_TRY(const auto set, handle->enable_interrupts(InterruptKind::msix, 4));
  OUTBOARD_TRY(const auto bar, handle->bar(0));
  OUTBOARD_TRY(const auto window, bar.window(0, 4096));
  constexpr std::uint64_t configuration = 0x14;
  constexpr std::uint32_t entry_sizes = 0x00460000;
  window.write(configuration, entry_sizes);
  OUTBOARD_CHECK(
      expect(window.read<std::uint32_t>(configuration) == entry_sizes, "a register that keeps what is written"));
  OUTBOARD_CHECK(handle->reset());
  OUTBOARD_CHECK(expect(window.read<std::uint32_t>(configuration) == 0, "the register is as at power-on"));
  OUTBOARD_TRY(const auto command, handle->config().read<pci::Command>());
  OUTBOARD_CHECK(expect(command.get(pci::Command::bus_master) == 1, "bus mastering is restored"));
  OUTBOARD_CHECK(handle->trigger_interrupts(InterruptKind::msix, 3, 1));
  return expect(signalled(set.vector(3)), "the vectors are bound still");
}

Status vectors(const Given& given) {
  OUTBOARD_TRY(auto handle, given.open());
  OUTBOARD_TRY(const auto info, handle->interrupts(InterruptKind::msix));
  OUTBOARD_TRY(const unsigned count, handle->msix_vector_count());
  OUTBOARD_CHECK(expect(info.count == count && count > 8, fmt::format("{} vectors", count)));
  const auto one = eventfds(1), some = eventfds(3);
  OUTBOARD_CHECK(handle->bind_interrupts(InterruptKind::msix, 5, one));
  OUTBOARD_CHECK(handle->bind_interrupts(InterruptKind::msix, 0, some));
  OUTBOARD_CHECK(expect_error(handle->bind_interrupts(InterruptKind::intx, 0, one), EINVAL, "a second mode"));
  std::vector<EventFd> wrong(1);
  OUTBOARD_TRY(wrong[0], EventFd::adopt(UniqueFd(::memfd_create("none", MFD_CLOEXEC))));
  OUTBOARD_CHECK(expect(!handle->bind_interrupts(InterruptKind::msix, 1, wrong), "a descriptor that is no eventfd"));
  for (const auto* each : {&some[0], &some[1], &some[2], &one[0]}) {
    const unsigned vector = each == &one[0] ? 5 : static_cast<unsigned>(each - some.data());
    OUTBOARD_CHECK(handle->trigger_interrupts(InterruptKind::msix, vector, 1));
    OUTBOARD_CHECK(expect(signalled(*each), fmt::format("vector {}", vector)));
  }
  OUTBOARD_CHECK(handle->disable_interrupts(InterruptKind::msix));
  OUTBOARD_CHECK(handle->disable_interrupts(InterruptKind::msix));
  OUTBOARD_TRY(const auto all, handle->enable_interrupts_up_to(InterruptKind::msix, 4096));
  return expect(all.count() == count, "all of them at once");
}

/// MSI with several vectors: as many as the machine gives, and more later.
Status msi(const Given& given) {
  OUTBOARD_TRY(auto handle, given.open());
  OUTBOARD_TRY(const unsigned count, handle->msi_vector_count());
  OUTBOARD_CHECK(expect(count == 16, "16 vectors"));
  {
    OUTBOARD_TRY(const auto set, handle->enable_interrupts_up_to(InterruptKind::msi, count));
    fmt::print("{} of {} vectors\n", set.count(), count);
    OUTBOARD_CHECK(expect(set.count() >= 1, "at least one vector"));
    OUTBOARD_CHECK(handle->trigger_interrupts(InterruptKind::msi, set.count() - 1, 1));
    OUTBOARD_CHECK(expect(signalled(set.vector(set.count() - 1)), "the last one"));
  }
  OUTBOARD_TRY(const auto info, handle->interrupts(InterruptKind::msi));
  if (info.count < 4) return {};
  const auto first = eventfds(1), more = eventfds(3);
  OUTBOARD_CHECK(handle->bind_interrupts(InterruptKind::msi, 0, first));
  OUTBOARD_CHECK(handle->bind_interrupts(InterruptKind::msi, 1, more));
  OUTBOARD_CHECK(handle->bind_interrupts(InterruptKind::msi, 2, std::vector<EventFd>(1)));
  OUTBOARD_CHECK(handle->trigger_interrupts(InterruptKind::msi, 0, 4));
  return expect(signalled(first[0]) && signalled(more[0]) && signalled(more[2]) && !signalled(more[1], 0),
                "each to its eventfd, and none to that of the vector taken away");
}

// edu: 0x60 raises causes, 0x64 acknowledges them.
Status intx(const Given& given) {
  OUTBOARD_TRY(auto handle, given.open());
  OUTBOARD_TRY(const auto bar, handle->bar(0));
  OUTBOARD_TRY(auto set, handle->enable_interrupts(InterruptKind::intx, 1));
  OUTBOARD_CHECK(bar.write(0x60, 1U));
  OUTBOARD_CHECK(expect(signalled(set.vector(0)), "raised"));
  OUTBOARD_CHECK(set.unmask());
  OUTBOARD_CHECK(expect(signalled(set.vector(0)), "still raised: signalled again"));
  OUTBOARD_TRY(const EventFd unmask, EventFd::create());
  OUTBOARD_CHECK(handle->bind_unmask(unmask));
  OUTBOARD_CHECK(handle->bind_unmask(unmask));
  unmask.signal();
  OUTBOARD_CHECK(expect(signalled(set.vector(0)), "unmasked by an eventfd"));
  OUTBOARD_CHECK(bar.write(0x64, 1U));
  OUTBOARD_CHECK(handle->bind_unmask(EventFd()));
  OUTBOARD_CHECK(set.unmask());
  return expect(!signalled(set.vector(0), 100), "acknowledged: nothing more");
}

// edu: 4 keeps the complement of what is written.
Status doorbell(const Given& given) {
  OUTBOARD_TRY(auto handle, given.open());
  OUTBOARD_TRY(const auto bar, handle->bar(0));
  OUTBOARD_TRY(const EventFd bell, EventFd::create());
  OUTBOARD_CHECK(handle->ring_by_eventfd(0, 4, 4, 0x12345678, bell));
  bell.signal();
  for (int i = 0; i < 5000; ++i) {
    OUTBOARD_TRY(const auto value, bar.read<std::uint32_t>(4));
    if (value == ~0x12345678U) return {};
    ::usleep(1000);
  }
  return expect(false, "the register was not written");
}

Status memory_rules(const Given& given) {
  OUTBOARD_TRY(auto handle, given.open(true));
  constexpr std::uint64_t page = 4096;
  const memory::Iova place{0x100000};
  auto* at =
      static_cast<std::byte*>(::mmap(nullptr, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const MutableBytes pages(at, 4 * page);
  auto& mapper = handle->dma_mapper();
  const auto map = [&](memory::Iova iova, memory::Access access = memory::Access::read_write) {
    return mapper.map({iova, pages.size()}, pages, access, nullptr, 0);
  };
  for (const auto& range : mapper.limits().valid) {
    OUTBOARD_CHECK(expect(raw(range.start) >= page, "never the first page"));
  }
  OUTBOARD_CHECK(expect_error(map(memory::Iova{0}), EINVAL, "address 0"));
  OUTBOARD_CHECK(expect_error(map(memory::Iova{0xfee00000}), EINVAL, "where interrupts go"));
  OUTBOARD_CHECK(map(place));
  OUTBOARD_CHECK(expect_error(map(place + page), EEXIST, "an overlap"));
  OUTBOARD_CHECK(expect_error(mapper.unmap({place, page}), ENOENT, "a part"));
  OUTBOARD_CHECK(mapper.unmap({place, pages.size()}));
  ::mprotect(at, 4 * page, PROT_READ);
  OUTBOARD_CHECK(expect_error(map(place), EFAULT, "read-only memory"));
  OUTBOARD_CHECK(map(place, memory::Access::read));
  OUTBOARD_CHECK(mapper.unmap({place, pages.size()}));
  OUTBOARD_TRY(const auto buffer, handle->dma().allocate(UINT64_C(1) << 20));
  return expect(raw(buffer.iova()) >= page, "a buffer from the pool");
}

/// A child that was forked, with a window open in the parent, does not keep the device.
Status child(const Given& given) {
  OUTBOARD_TRY(auto handle, given.open());
  OUTBOARD_TRY(const auto bar, handle->bar(0));
  OUTBOARD_CHECK(bar.window(0, 4096));
  const pid_t forked = ::fork();
  if (forked == 0) {
    ::execl("/proc/self/exe", "vfio_contract", "wait", "0000:00:00.0", nullptr);
    ::_exit(1);
  }
  ::usleep(300'000);
  handle.reset();
  const auto again = given.open();
  ::kill(forked, SIGKILL);
  ::waitpid(forked, nullptr, 0);
  return again ? Status() : Status(again.error());
}

Status wait_for_ever(const Given&) {
  ::pause();
  return {};
}

Status revoked(const Given& given) {
  OUTBOARD_TRY(auto handle, given.open());
  OUTBOARD_CHECK(handle->enable_bus_master());
  OUTBOARD_TRY(const auto bar, handle->bar(0));
  OUTBOARD_TRY(const auto window, bar.window(0, 4096));
  OUTBOARD_TRY(auto buffer, handle->dma().allocate(4096));
  OUTBOARD_TRY(const auto set, handle->enable_interrupts_up_to(InterruptKind::msix, 2));
  handle->revoke();
  OUTBOARD_CHECK(expect(window.read<std::uint32_t>(0) == UINT32_MAX, "ones"));
  OUTBOARD_CHECK(expect_error(bar.read<std::uint32_t>(0), ENODEV, "a call"));
  buffer.bytes()[0] = std::byte{1};
  OUTBOARD_TRY(const auto again, given.open());  // while the old handle is there still
  OUTBOARD_TRY(const auto identity, again->identity());
  return expect(identity.vendor != 0xFFFF, "and is driven again");
}

const std::map<std::string_view, std::function<Status(const Given&)>> cases{
    {"windows", windows}, {"guard", guard},        {"sleep", sleep_and_wake},
    {"reset", reset},     {"vectors", vectors},    {"msi", msi},
    {"intx", intx},       {"doorbell", doorbell},  {"memory", memory_rules},
    {"child", child},     {"wait", wait_for_ever}, {"revoked", revoked},
};

int run(int argc, char** argv) {
  const auto found = cases.find(argc > 2 ? argv[1] : "");
  if (found == cases.end()) return 2;
  const auto address = pci::Address::parse(argv[2]);
  if (!address) return 2;
  Given given{.address = *address};
  if (argc > 3) given.interface = std::string_view(argv[3]) == "cdev" ? vfio::Interface::cdev : vfio::Interface::group;
  const Status done = found->second(given);
  if (done) return 0;
  fmt::print("{}: {}\n{}\n", argv[1], done.error().message(), done.error().cure());
  return 1;
}

}  // namespace
}  // namespace outboard

int main(int argc, char** argv) { return outboard::run(argc, argv); }
